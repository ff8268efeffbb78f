//! Collateral over real HTTP from a service that dies, lies, stalls and floods; a node that holds collateral goes on.

mod support;

use collateral::{FetchError, Keeper, KeeperError, Origin, PlatformId, Service, Settings, Store, StoreError};
use evidence::{Collateral, Inputs, Policy, verify};
use simulator::fault::{AT, Case, Fault};
use simulator::{Options, Part, Platform};
use std::sync::LazyLock;
use support::{Mode, Pccs};

const DAY: u64 = 24 * 60 * 60;
static CASE: LazyLock<Case> = LazyLock::new(|| Fault::None.case().unwrap());

fn good() -> Mode {
    Mode::Good(Box::new(CASE.collateral.clone()))
}

fn service(pccs: &Pccs) -> Service {
    let settings =
        Settings { timeout_seconds: 2, attempts: 2, wait_milliseconds: 1, ..Settings::of(&pccs.url) };
    Service::new(settings).unwrap()
}

fn policy() -> Policy {
    Policy::simulated(&CASE.root_der).unwrap()
}

fn keeper(pccs: &Pccs, store: Option<Store>) -> Keeper {
    Keeper::new(Some(service(pccs)), store, policy())
}

fn quote() -> &'static [u8] {
    &CASE.evidence.quote
}

fn accepted(collateral: &Collateral, at: u64) -> bool {
    let (policy, quote) = (policy(), quote());
    let (event_log, static_config, runtime, reference, report_data) = (None, None, None, None, None);
    let policy = &policy;
    verify(&Inputs {
        quote,
        collateral,
        policy,
        event_log,
        static_config,
        runtime,
        reference,
        report_data,
        at,
    })
    .accepted
}

#[test]
fn collateral_from_either_form_of_service_verifies_a_quote() {
    for mode in [good(), Mode::Hex(Box::new(CASE.collateral.clone()))] {
        let pccs = Pccs::start(mode);
        let held = keeper(&pccs, None).collateral(quote(), AT).unwrap();
        assert_eq!(held.origin, Origin::Service);
        assert_eq!(held.collateral.digest(), CASE.collateral.digest());
        assert!(accepted(&held.collateral, AT));
    }
}

#[test]
fn an_outage_stops_nothing_before_the_collateral_expires() {
    let pccs = Pccs::start(good());
    let mut keeper = keeper(&pccs, None);
    let first = keeper.collateral(quote(), AT).unwrap();
    for mode in [Mode::Dead, Mode::Garbage, Mode::NoHeader(Box::new(CASE.collateral.clone()))] {
        pccs.set(mode);
        let due = keeper.next_refresh().unwrap();
        let refreshed = keeper.refresh(due);
        assert_eq!(refreshed.len(), 1);
        assert!(refreshed[0].trouble.is_some(), "{refreshed:?}");
        let held = keeper.collateral(quote(), first.expires - 1).unwrap();
        assert_eq!((held.origin, held.expires), (Origin::Memory, first.expires));
        assert!(held.trouble.is_some() && accepted(&held.collateral, first.expires - 1));
    }
    pccs.set(Mode::Dead);
    let error = keeper.collateral(quote(), first.expires).unwrap_err();
    assert!(matches!(error, KeeperError::Unavailable { .. }), "{error}");
    // It comes back, with collateral that holds.
    pccs.set(good());
    assert!(keeper.refresh(keeper.next_refresh().unwrap())[0].trouble.is_none());
}

#[test]
fn a_question_is_answered_without_the_network_while_collateral_is_held() {
    let pccs = Pccs::start(good());
    let mut keeper = keeper(&pccs, None);
    keeper.collateral(quote(), AT).unwrap();
    let asked = pccs.asked();
    for at in 0..20 {
        keeper.collateral(quote(), AT + at * DAY).unwrap();
    }
    assert_eq!(pccs.asked(), asked);
    assert!(keeper.refresh(AT + 1).is_empty(), "nothing is due");
    assert_eq!(keeper.refresh(AT + DAY).len(), 1);
    assert!(pccs.asked() > asked);
}

#[test]
fn what_was_kept_on_disk_works_offline() {
    let dir = tempfile::tempdir().unwrap();
    let store = || Some(Store::open(dir.path()).unwrap());
    let pccs = Pccs::start(good());
    keeper(&pccs, store()).collateral(quote(), AT).unwrap();
    let mut offline = Keeper::new(None, store(), policy());
    let held = offline.collateral(quote(), AT + 5 * DAY).unwrap();
    assert_eq!(held.origin, Origin::Disk);
    assert!(accepted(&held.collateral, AT + 5 * DAY));
    let error = Keeper::new(None, None, policy()).collateral(quote(), AT).unwrap_err();
    assert!(matches!(error, KeeperError::Offline { .. }), "{error}");
}

#[test]
fn a_copy_from_the_future_is_looked_after_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save(&PlatformId::of_quote(quote()).unwrap(), &CASE.collateral, AT + 20 * DAY).unwrap();
    let pccs = Pccs::start(good());
    let mut keeper = keeper(&pccs, Some(store));
    assert_eq!(keeper.collateral(quote(), AT).unwrap().origin, Origin::Disk);
    assert!(keeper.next_refresh().unwrap() <= AT);
    assert!(keeper.refresh(AT)[0].trouble.is_none());
    assert_eq!(keeper.next_refresh(), Some(AT + DAY));
}

#[test]
fn what_is_refused_is_told_apart_from_what_can_not_be_read() {
    let pccs = Pccs::start(Mode::Garbage);
    let error = keeper(&pccs, None).collateral(quote(), AT).unwrap_err();
    assert!(matches!(error, KeeperError::Unavailable { .. }), "{error}");
    pccs.set(good());
    let mut production = Keeper::new(Some(service(&pccs)), None, Policy::production());
    let error = production.collateral(quote(), AT).unwrap_err();
    let KeeperError::Refused { why, collateral, .. } = error else { panic!("{error}") };
    assert!(why.starts_with("trust_root: "), "{why}");
    assert_eq!(collateral.digest(), CASE.collateral.digest());
}

#[test]
fn a_damaged_file_is_refused_once_and_fetched_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let platform = PlatformId::of_quote(quote()).unwrap();
    store.save(&platform, &CASE.collateral, AT).unwrap();
    let file = dir.path().join(format!("{platform}.json"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(store.load(&platform), Err(StoreError::Damaged { .. })));
    assert!(store.load(&platform).unwrap().is_none());
    std::fs::write(&file, &bytes).unwrap();
    let pccs = Pccs::start(good());
    assert_eq!(keeper(&pccs, Some(store)).collateral(quote(), AT).unwrap().origin, Origin::Service);
    assert_eq!(
        Keeper::new(None, Store::open(dir.path()).ok(), policy()).collateral(quote(), AT).unwrap().origin,
        Origin::Disk
    );
}

#[test]
fn oversized_and_silent_services_are_given_up() {
    let pccs = Pccs::start(Mode::Oversized);
    let error = service(&pccs).fetch(&PlatformId::of_quote(quote()).unwrap()).unwrap_err();
    assert!(
        matches!(&error, FetchError::Transport { why, .. } if why.contains("limit") || why.contains("exceed")),
        "{error}"
    );
    pccs.set(Mode::Silent);
    let patient = Settings { timeout_seconds: 1, attempts: 1, ..Settings::of(&pccs.url) };
    let error = Service::new(patient).unwrap().fetch(&PlatformId::of_quote(quote()).unwrap()).unwrap_err();
    assert!(matches!(&error, FetchError::Transport { why, .. } if why.contains("timeout")), "{error}");
}

#[test]
fn a_busy_service_is_asked_again_and_an_unknown_platform_is_not() {
    let pccs = Pccs::start(Mode::Busy(1, Box::new(CASE.collateral.clone())));
    let platform = PlatformId::of_quote(quote()).unwrap();
    service(&pccs).fetch(&platform).unwrap();
    assert_eq!(pccs.asked(), 5);
    let other = PlatformId { fmspc: evidence::Hex([9; 6]), ..platform };
    let error = service(&pccs).fetch(&other).unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 404, .. }), "{error}");
    assert_eq!(pccs.asked(), 7);
}

#[test]
fn the_roots_crl_may_be_elsewhere() {
    let pccs = Pccs::start(good());
    let settings =
        Settings { root_crl: Some(format!("{}/elsewhere.crl", pccs.url)), ..Settings::of(&pccs.url) };
    let collateral = Service::new(settings).unwrap().fetch(&PlatformId::of_quote(quote()).unwrap()).unwrap();
    assert_eq!(collateral.digest(), CASE.collateral.digest());
    assert!(Service::new(Settings::of("ftp://somewhere")).is_err());
}

/// Collateral of the same platform, made at another time or with a fault, served in the place of what is held.
fn replaced_by(options: Options) -> (Keeper, Pccs, Option<String>) {
    let platform = Platform::with(Options::valid(AT, 30)).unwrap();
    let policy = Policy::simulated(&platform.root_der().unwrap()).unwrap();
    let identity = platform.identity().unwrap();
    let quote = identity.quote(&identity.td_report(&measure::Registers::ZERO, [0; 48], [0; 64]));
    let pccs = Pccs::start(Mode::Good(Box::new(platform.collateral().unwrap())));
    let mut keeper = Keeper::new(Some(service(&pccs)), None, policy);
    keeper.collateral(&quote, AT).unwrap();
    pccs.set(Mode::Good(Box::new(platform.again(options).collateral().unwrap())));
    let trouble = keeper.refresh(AT + DAY).remove(0).trouble;
    (keeper, pccs, trouble)
}

#[test]
fn forged_stale_and_foreign_collateral_replaces_nothing() {
    let valid = || Options::valid(AT, 30);
    let cases = [
        (Options { forged: vec![Part::TcbInfo], ..valid() }, "tcb_info"),
        (Options { forged: vec![Part::QeIdentity], ..valid() }, "qe_identity"),
        (Options { forged: vec![Part::PckCrl], ..valid() }, "the PCK CRL is not its issuer's"),
        (Options { forged: vec![Part::RootCrl], ..valid() }, "trust_root"),
        (Options { expired: vec![Part::TcbInfo], ..valid() }, "collateral_window"),
        (Options { from: AT - 5 * DAY, ..valid() }, "older than the one held"),
        (Options { tcb_info_fmspc: *b"OTHERS", ..valid() }, "fmspc"),
    ];
    for (options, why) in cases {
        let (_, _, trouble) = replaced_by(options.clone());
        assert!(trouble.as_ref().is_some_and(|trouble| trouble.contains(why)), "{why}: {trouble:?}");
    }
}

#[test]
fn a_genuine_revocation_is_taken_though_it_refuses_the_platform() {
    let (keeper, _pccs, trouble) =
        replaced_by(Options { revoked: vec![Part::Pck], ..Options::valid(AT, 30) });
    assert_eq!(trouble, None);
    drop(keeper);
    let (_, _, trouble) = replaced_by(Options { tcb_status: "Revoked".into(), ..Options::valid(AT, 30) });
    assert_eq!(trouble, None);
}
