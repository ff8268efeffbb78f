//! TCB info and QE identity, as Intel publishes them (Intel SGX and TDX Provisioning Certification Service API,
//! version 4: "TCB Info V3", "Enclave Identity V2").

use crate::description::Part;
use crate::platform::{Options, ascii};
use evidence::show_time;
use serde_json::{Value, json};

/// First bytes of every identifier that a real platform would get from Intel.
pub(crate) const FMSPC: [u8; 6] = *b"SIMULA";
pub(crate) const PCE_ID: [u8; 2] = [0, 0];
pub(crate) const PCE_SVN: u8 = 1;
/// Of the only quoting enclave.
pub(crate) const QE_ISVPRODID: u16 = 2;
pub(crate) const QE_ISVSVN: u16 = 1;
pub(crate) const QE_MRSIGNER: [u8; 32] = ascii("SIMULATED QUOTING ENCLAVE");
/// INIT and MODE64BIT, as every enclave (Intel SDM volume 3D, ATTRIBUTES).
pub(crate) const QE_ATTRIBUTES: [u8; 16] = [0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// TDX module version 1 with ISVSVN 1.
pub(crate) const TEE_TCB_SVN: [u8; 16] = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const CPU_SVN: [u8; 16] = [1; 16];
/// Signer of the TDX module.
pub(crate) const MRSIGNERSEAM: [u8; 48] = ascii("SIMULATED TDX MODULE SIGNER");

const OLD_ADVISORY: &str = "SIMULATED-SA-00001";

/// Two levels: the current one, and one below it that is out of date.
pub(crate) fn tcb_info(options: &Options) -> String {
    let module = |isvsvn: u8, status: &str| json!({"tcb": {"isvsvn": isvsvn}, "tcbDate": date(options), "tcbStatus": status});
    let signer = hex::encode_upper(MRSIGNERSEAM);
    json!({
        "id": options.tcb_info_id,
        "version": 3,
        "issueDate": show_time(options.from),
        "nextUpdate": show_time(options.until(Part::TcbInfo)),
        "fmspc": hex::encode_upper(options.tcb_info_fmspc),
        "pceId": hex::encode_upper(options.tcb_info_pce_id),
        "tcbType": 0,
        "tcbEvaluationDataNumber": 1,
        "tdxModule": {"mrsigner": signer, "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"},
        "tdxModuleIdentities": [{
            "id": "TDX_01",
            "mrsigner": signer,
            "attributes": "0000000000000000",
            "attributesMask": "FFFFFFFFFFFFFFFF",
            "tcbLevels": [module(1, "UpToDate"), module(0, "OutOfDate")],
        }],
        "tcbLevels": [level(options, 1, &options.tcb_status), level(options, 0, "OutOfDate")],
    })
    .to_string()
}

fn level(options: &Options, svn: u8, status: &str) -> Value {
    let component = |svn: u8| json!({"svn": svn});
    let sgx: Vec<Value> = CPU_SVN.iter().map(|current| component(svn.min(*current))).collect();
    let tdx: Vec<Value> = TEE_TCB_SVN.iter().map(|current| component(svn.min(*current))).collect();
    let tcb = json!({"sgxtcbcomponents": sgx, "pcesvn": svn.min(PCE_SVN), "tdxtcbcomponents": tdx});
    let advisories: &[&str] = if status == "UpToDate" { &[] } else { &[OLD_ADVISORY] };
    json!({"tcb": tcb, "tcbDate": date(options), "tcbStatus": status, "advisoryIDs": advisories})
}

pub(crate) fn qe_identity(options: &Options) -> String {
    let qe = |isvsvn: u16, status: &str| json!({"tcb": {"isvsvn": isvsvn}, "tcbDate": date(options), "tcbStatus": status});
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": show_time(options.from),
        "nextUpdate": show_time(options.until(Part::QeIdentity)),
        "tcbEvaluationDataNumber": 1,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": hex::encode_upper(QE_ATTRIBUTES),
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": hex::encode_upper(QE_MRSIGNER),
        "isvprodid": QE_ISVPRODID,
        "tcbLevels": [qe(QE_ISVSVN, "UpToDate"), qe(0, "OutOfDate")],
    })
    .to_string()
}

fn date(options: &Options) -> String {
    show_time(options.from)
}
