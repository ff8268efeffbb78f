//! The list of targets, by what they parse.

mod boot;
mod evidence;
mod firmware;
mod gpu;
mod ledger;
mod market;
mod payment;
mod release;
mod wire;
mod worker;

use crate::Target;

/// Every target; `cargo xtask fuzz` takes these names.
pub const TARGETS: &[Target] = &[
    firmware::TDVF,
    firmware::TDX_PROFILE,
    firmware::VOLUMES,
    firmware::VARIABLES,
    firmware::ACPI,
    boot::PE,
    boot::UKI,
    boot::GPT,
    boot::EVENT_LOG,
    boot::SHAPE,
    evidence::EXPLAINED,
    evidence::QUOTE,
    evidence::COLLATERAL,
    evidence::BUNDLE,
    evidence::POLICY,
    evidence::REFERENCE,
    evidence::VERDICT,
    gpu::REPORT,
    gpu::CHAIN,
    gpu::ENVELOPE,
    gpu::RIM,
    gpu::OCSP,
    ledger::REPLY,
    ledger::BAG,
    release::MEASUREMENTS,
    release::DOCUMENT,
    release::STATEMENT,
    release::PAYLOAD,
    release::ROOT,
    release::TARGETS,
    release::ANCHOR,
    payment::VOUCHER,
    payment::LOG,
    market::FIELD,
    market::BODY,
    market::STREAM,
    wire::EVIDENCE,
    wire::RUNTIME,
    wire::CHANNEL,
    wire::CONTROL,
    wire::SHOWN,
    wire::HANDOFF,
    wire::CONFIG,
    wire::PROGRESS,
    wire::SUPERBLOCK,
    worker::CHAT,
    worker::TEXT,
    worker::VECTORS,
];
