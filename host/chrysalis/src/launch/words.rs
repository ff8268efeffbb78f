//! What `launch` tells a person on standard error.

use launcher::foretell::Foretold;
use launcher::{Event, What};
use protocol::progress::Stage;

/// The registers, before the machine starts.
pub fn foretold(foretold: &Foretold) {
    let (events, millis) = (foretold.prediction.events.len(), foretold.took.as_millis());
    eprintln!("  foretold {events} events in {millis} ms, before the machine starts:");
    let [before_the_kernel @ .., rtmr3] = measure::Register::ALL;
    for register in before_the_kernel {
        eprintln!("    {register:<6} {}", foretold.registers.get(register));
    }
    eprintln!("    {rtmr3:<6} the fold of the guest's own events, which it shows with its evidence");
}

/// Something that happened.
pub fn event(event: &Event) {
    let seconds = event.at_ms as f64 / 1000.0;
    match &event.what {
        What::State(state) => eprintln!("  {seconds:6.1} s  {state:?}"),
        What::Progress(line) => eprintln!("  {seconds:6.1} s    guest: {}", stage(&line.stage)),
        What::Quotes { answer: true } => eprintln!("  {seconds:6.1} s  the quote service answers again"),
        What::Quotes { answer: false } => eprintln!(
            "  {seconds:6.1} s  the quote service does NOT answer: nobody new can verify this machine; restart it \
             (`systemctl restart qgsd`)"
        ),
    }
}

/// What the guest says about itself, for people; nobody relies on it.
pub fn stage(stage: &Stage) -> String {
    match stage {
        Stage::Started => "firmware, kernel and verified root are behind us".into(),
        Stage::ConfigMeasured { mrconfigid } => {
            format!("configuration equals MRCONFIGID {mrconfigid:.16}...")
        }
        Stage::NetworkUp { address } => format!("network up, {address}"),
        Stage::ModelOpened { name, root } => format!("model {name} opened under root {root:.16}..."),
        Stage::GpusReady { count, simulated: false } => format!("{count} GPU(s) attested and set ready"),
        Stage::GpusReady { count, simulated: true } => {
            format!("{count} SIMULATED GPU(s) attested and set ready")
        }
        Stage::GpusRefused { reason } => format!("GPUs REFUSED and closed, serving without: {reason}"),
        Stage::Sealed { extended: true, rtmr3 } => format!("sealed, RTMR3 extended to {rtmr3:.16}..."),
        Stage::Sealed { extended: false, .. } => "sealed, RTMR3 not extended: this kernel can't".into(),
        Stage::Serving { port } => format!("serving on port {port}"),
        Stage::PeerJoined { part, simulated: false } => format!("{} attested", part.as_str()),
        Stage::PeerJoined { part, simulated: true } => {
            format!("{} attested, SIMULATED platform", part.as_str())
        }
        Stage::PeerRefused { part, reasons } => {
            format!("{} REFUSED: {}", part.as_str(), reasons.join(", "))
        }
        Stage::Publication { standing, accepted, reason, .. } => {
            let why = reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
            format!("publication {standing:?}: {accepted} release(s) accepted{why}")
        }
        Stage::PeerLeft { part } => format!("{} left", part.as_str()),
        Stage::Failed { step, reason } => format!("FAILED at {step}: {reason}"),
    }
}
