//! Which model a request means: `name`, or `name@root` for exactly these weights.

use daemon::fault::Fault;
use protocol::config::StaticConfig;
use protocol::market::Hex32;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::http;

/// The models of the measured configuration, by name.
pub struct Pins(BTreeMap<String, [u8; 32]>);

/// A request's model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meant {
    /// Its verity root.
    pub root: [u8; 32],
    /// The body with the plain name, where it had a root.
    pub body: Option<Vec<u8>>,
}

impl Pins {
    /// Of this configuration.
    pub fn of(config: &StaticConfig) -> Self {
        let root = |text: &str| text.parse().map(|Hex32(root)| root).ok();
        Pins(config.models.iter().filter_map(|pin| Some((pin.name.clone(), root(&pin.root)?))).collect())
    }

    /// What a body asks for.
    pub(super) fn meant(&self, body: &[u8]) -> Result<Meant, Fault> {
        #[derive(Deserialize)]
        struct Named {
            model: String,
        }
        let Named { model } = serde_json::from_slice(body).map_err(|error| {
            let message =
                format!("the body can't be read: {error}; expected JSON with {{\"model\": string}}");
            Fault::request("invalid_json", None, message)
        })?;
        let (name, pinned) = match model.split_once('@') {
            None => (model.as_str(), None),
            Some((name, root)) => (name, Some(root)),
        };
        let found = self.0.get(name).ok_or_else(|| self.unknown(name))?;
        let Some(pinned) = pinned else { return Ok(Meant { root: *found, body: None }) };
        if pinned.parse() != Ok(Hex32(*found)) {
            let message =
                format!("`{name}` has root {} here; ask another worker for other weights", Hex32(*found));
            return Err(Fault::request("model_not_found", Some("model"), message).status(http::NOT_FOUND));
        }
        Ok(Meant { root: *found, body: Some(renamed(body, name)?) })
    }

    fn unknown(&self, name: &str) -> Fault {
        let served = self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let name: String = name.chars().take(64).collect();
        let message = format!("model `{name}` is not served here; this worker serves: {served}");
        Fault::request("model_not_found", Some("model"), message).status(http::NOT_FOUND)
    }
}

/// The same body with another model's name.
fn renamed(body: &[u8], name: &str) -> Result<Vec<u8>, Fault> {
    let unreadable = |error: serde_json::Error| {
        Fault::request("invalid_json", None, format!("the body can't be read: {error}; send JSON"))
    };
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).map_err(unreadable)?;
    fields.insert("model".into(), name.into());
    serde_json::to_vec(&fields).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pins() -> Pins {
        Pins([("small".to_owned(), [0xab; 32])].into())
    }

    #[test]
    fn a_name_with_the_right_root_is_served_under_its_plain_name() {
        let body = format!(
            "{{\"model\":\"small@{}\",\"input\":[\"a\"],\"seed\":18446744073709551615,\"t\":0.7}}",
            "ab".repeat(32)
        );
        let meant = pins().meant(body.as_bytes()).unwrap();
        assert_eq!(meant.root, [0xab; 32]);
        let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let expected = br#"{"input":["a"],"model":"small","seed":18446744073709551615,"t":0.7}"#;
        assert_eq!(read(&meant.body.unwrap()), read(expected));
        let plain = pins().meant(br#"{"model":"small"}"#).unwrap();
        assert_eq!(plain, Meant { root: [0xab; 32], body: None });
    }

    #[test]
    fn another_root_or_name_is_not_found_and_no_model_is_a_bad_request() {
        for (model, status) in [
            (format!("small@{}", "ac".repeat(32)), 404),
            ("small@".into(), 404),
            (format!("small@{}", "AB".repeat(32)), 404),
            ("large".into(), 404),
            (String::new(), 404),
        ] {
            let fault = pins().meant(format!("{{\"model\":\"{model}\"}}").as_bytes()).unwrap_err();
            assert_eq!(fault.code().as_u16(), status, "{model}");
        }
        for bad in ["", "{}", "[]", r#"{"model":1}"#, r#"{"model":"a","model":"small"}"#] {
            assert_eq!(pins().meant(bad.as_bytes()).unwrap_err().code().as_u16(), 400, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = pins().meant(&body);
        }
    }
}
