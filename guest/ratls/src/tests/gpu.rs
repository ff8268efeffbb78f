//! GPU evidence on a channel: fresh or of a stated age, of this connection alone. The GPUs are SIMULATED.

use super::*;
use crate::{ChannelError, GpuSource, GpuTrust, Trust};
use evidence::gpu::{DeviceEvidence, GpuCheckName};
use protocol::channel::{GpuDemand, GpuShown, Refuse};
use simulator::gpu::{AT as GPU_AT, GpuCase, GpuMachine, RunningGpus};
use std::sync::{LazyLock, Mutex};

/// Two GPUs, the same in all tests.
static MACHINE: LazyLock<RunningGpus> = LazyLock::new(|| GpuMachine::Hopper(2).start().unwrap());

/// How a guest takes reports.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Honest,
    /// Over another nonce than it was asked for.
    Deaf,
}

struct Gpus {
    source: Source,
    cached: Option<GpuShown>,
    taken: Mutex<Vec<[u8; 32]>>,
}

impl Gpus {
    fn new(source: Source) -> Self {
        Gpus { source, cached: None, taken: Mutex::default() }
    }
}

fn envelope(case: &GpuCase) -> Vec<u8> {
    DeviceEvidence::to_envelope(&case.devices, &case.nonce).into_bytes()
}

impl GpuSource for Gpus {
    fn fresh(&self, nonce: &[u8; 32]) -> Result<Vec<u8>, String> {
        self.taken.lock().unwrap().push(*nonce);
        let over = if self.source == Source::Deaf { [9; 32] } else { *nonce };
        MACHINE.case(&over).map(|case| envelope(&case)).map_err(|error| error.to_string())
    }

    fn cached(&self) -> Option<GpuShown> {
        self.cached.clone()
    }
}

/// A world at the time of the GPUs' certificates, and a verifier that knows their manifests.
fn machine() -> (World, Verifier) {
    let world = support::world_at(support::STATIC_CONFIG, GPU_AT);
    let case = MACHINE.case(&[3; 32]).unwrap();
    let GpuCase { driver_rims, vbios_rims, ocsp, .. } = case.clone();
    let gpu = GpuTrust { policy: case.policy().unwrap(), driver_rims, vbios_rims, ocsp };
    let verifier = Verifier::fixed(Trust { gpu: Some(gpu), ..world.trust() }, GPU_AT);
    (world, verifier)
}

fn cached(age_s: u32) -> GpuShown {
    let case = MACHINE.case(&[3; 32]).unwrap();
    GpuShown { envelope: envelope(&case), nonce: case.nonce, age_s }
}

async fn demand(
    near: DuplexStream,
    verifier: &Verifier,
    gpu: GpuDemand,
) -> Result<Attested<DuplexStream>, ConnectError> {
    let wanted = Wanted { gpu, ..Wanted::part(Part::Worker) };
    crate::connect(near, &Endpoint::anonymous(), verifier, &wanted).await
}

#[tokio::test]
async fn fresh_reports_over_the_nonce_of_this_connection_are_believed() {
    let (world, verifier) = machine();
    let gpus = Arc::new(Gpus::new(Source::Honest));
    let acceptor = open(end(&world, Part::Worker).with_gpu(gpus.clone()));
    for _ in 0..2 {
        let attested = demand(honest(&acceptor), &verifier, GpuDemand::Fresh).await.unwrap();
        let appraised = attested.peer().gpu().unwrap();
        assert!(appraised.verdict().accepted);
        assert_eq!(appraised.verdict().devices.len(), 2);
        assert!(attested.peer().expires() <= appraised.expires());
    }
    let taken = gpus.taken.lock().unwrap();
    assert!(taken.len() == 2 && taken[0] != taken[1], "each connection has a nonce of its own");
}

#[tokio::test]
async fn cached_reports_are_believed_up_to_the_age_that_the_policy_allows() {
    let (world, verifier) = machine();
    let gpus = |age_s| Arc::new(Gpus { cached: Some(cached(age_s)), ..Gpus::new(Source::Honest) });
    let hour = GpuDemand::Cached { max_age_s: 3600 };
    let acceptor = open(end(&world, Part::Worker).with_gpu(gpus(3600)));
    let attested = demand(honest(&acceptor), &verifier, hour).await.unwrap();
    assert!(attested.peer().gpu().is_some());

    // The guest itself says that it has none so young,
    let acceptor = open(end(&world, Part::Worker).with_gpu(gpus(3601)));
    let error = demand(honest(&acceptor), &verifier, hour).await.err().unwrap();
    let told = matches!(error, ConnectError::Channel(ChannelError::Refused { reason: Refuse::Gpu, .. }));
    assert!(told, "{error}");
    // ... and one that shows older ones nevertheless is refused.
    let refusal = refusal(demand(shower(&world, cached(3601), None), &verifier, hour).await);
    assert!(matches!(refusal, Refusal::GpuTooOld { age_s: 3601, max_age_s: 3600 }), "{refusal}");
}

/// A responder that shows these reports, bound as they are, or as `bound` says.
fn shower(world: &World, shown: GpuShown, bound: Option<GpuShown>) -> DuplexStream {
    let identity = tls::Identity::generate();
    let public_key = identity.public_key.clone();
    let (attester, static_config) = (world.attester.clone(), world.static_config.clone());
    attacker(tls::server_config(&identity).unwrap(), async move |mut stream| {
        let challenge = Challenge::from_bytes(&read_challenge(&mut stream).await).unwrap();
        let link = link_of(&stream, Part::Worker, &public_key);
        let bound = bound.as_ref().unwrap_or(&shown);
        let keys = ApplicationKeys::default();
        let leaf = link.report_data(link.direction(), &challenge.digest(), &keys, Some(bound));
        let sent = Shown { gpu: Some(shown), ..quoted(attester.as_ref(), &static_config, &leaf) };
        frame::write(&mut stream, Step::Evidence, &sent.to_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
}

#[tokio::test]
async fn gpu_evidence_of_another_connection_is_refused() {
    let (world, verifier) = machine();
    // Named as what it is,
    let refused = refusal(demand(shower(&world, cached(0), None), &verifier, GpuDemand::Fresh).await);
    assert!(matches!(refused, Refusal::GpuNonce), "{refused}");
    // ... or passed off as taken for this one: the reports themselves say over what they were taken.
    let deaf = open(end(&world, Part::Worker).with_gpu(Arc::new(Gpus::new(Source::Deaf))));
    let refused = refusal(demand(honest(&deaf), &verifier, GpuDemand::Fresh).await);
    let verdict = refused.gpu_verdict().unwrap_or_else(|| panic!("{refused}"));
    let names: Vec<_> = verdict.failed().map(|entry| entry.check.name).collect();
    assert_eq!(names, [GpuCheckName::Nonce; 2]);
}

#[tokio::test]
async fn an_age_or_reports_changed_on_the_way_are_refused() {
    let (world, verifier) = machine();
    let hour = GpuDemand::Cached { max_age_s: 3600 };
    let younger = shower(&world, cached(60), Some(cached(7200)));
    assert_eq!(failed(demand(younger, &verifier, hour).await), [CheckName::ReportData]);
    let other = GpuShown { envelope: b"[]".to_vec(), ..cached(60) };
    let swapped = shower(&world, cached(60), Some(other));
    assert_eq!(failed(demand(swapped, &verifier, hour).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn gpus_that_are_demanded_must_be_shown_and_must_be_known() {
    let (world, verifier) = machine();
    // A guest without GPUs says so,
    let acceptor = open(end(&world, Part::Worker));
    let error = demand(honest(&acceptor), &verifier, GpuDemand::Fresh).await.err().unwrap();
    let told = matches!(error, ConnectError::Channel(ChannelError::Refused { reason: Refuse::Gpu, .. }));
    assert!(told, "{error}");
    // ... one that keeps silent is refused,
    let wanted = Wanted { gpu: GpuDemand::Fresh, ..Wanted::part(Part::Worker) };
    let silent = forger(&world, |_, _, _| {}, |_| {});
    let refused = refusal(crate::connect(silent, &Endpoint::anonymous(), &verifier, &wanted).await);
    assert!(matches!(refused, Refusal::GpuMissing), "{refused}");
    // ... and a verifier without manifests believes nothing.
    let bare = Verifier::fixed(world.trust(), GPU_AT);
    let result = demand(shower(&world, cached(0), None), &bare, GpuDemand::Cached { max_age_s: 1 }).await;
    let error = result.err().unwrap();
    let ConnectError::Refused(refused) = &error else { panic!("{error}") };
    assert!(matches!(**refused, Refusal::GpuUnknown) && !error.is_peer_fault(), "{error}");
}

#[tokio::test]
async fn gpus_that_are_not_demanded_are_neither_asked_nor_believed() {
    let (world, verifier) = machine();
    let gpus = Arc::new(Gpus::new(Source::Honest));
    let acceptor = open(end(&world, Part::Worker).with_gpu(gpus.clone()));
    let attested = demand(honest(&acceptor), &verifier, GpuDemand::None).await.unwrap();
    assert!(attested.peer().gpu().is_none() && gpus.taken.lock().unwrap().is_empty());
}
