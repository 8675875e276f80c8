//! Which MQTT client ids a principal may use.

use drawbridge_identity::Refusal;
use drawbridge_names::{MqttClientId, PrincipalKind, PrincipalName};

use crate::clock::{Random, random_id};

/// `projects/P/locations/L/registries/R/devices/D`, as Google Cloud IoT Core had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GooglePath<'a> {
    pub(crate) project: &'a str,
    pub(crate) location: &'a str,
    pub(crate) registry: &'a str,
    pub(crate) device: &'a str,
}

impl<'a> GooglePath<'a> {
    /// Takes a client id apart, if it has this form.
    pub(crate) fn parse(client_id: &'a str) -> Option<Self> {
        let mut parts = client_id.split('/');
        let mut pair = |word: &str| (parts.next() == Some(word)).then(|| parts.next()).flatten();
        let project = pair("projects")?;
        let location = pair("locations")?;
        let registry = pair("registries")?;
        let device = pair("devices")?;
        parts.next().is_none().then_some(Self { project, location, registry, device })
    }
}

/// The device that a client id names: what stands before the first `:`, or the last part of a path.
pub(crate) fn named_device(client_id: &MqttClientId) -> Option<PrincipalName> {
    let text = client_id.as_str();
    let name = match GooglePath::parse(text) {
        Some(path) => path.device,
        None => text.split_once(':').map_or(text, |(name, _)| name),
    };
    PrincipalName::parse(name).ok()
}

/// The client id the session is kept under, and whether it was made here. Judged only after
/// authentication. `path`: the client id is a path that names the principal's registry.
pub(crate) fn effective(
    kind: PrincipalKind,
    name: &PrincipalName,
    client_id: &MqttClientId,
    path: Option<GooglePath<'_>>,
    random: &dyn Random,
) -> Result<(MqttClientId, bool), Refusal> {
    let text = client_id.as_str();
    if text.is_empty() {
        // Of the form NAME:anything, so that the client may come back with it.
        let assigned = format!("{name}:{}", random_id(random));
        let assigned =
            MqttClientId::parse(&assigned).expect("a name and base64url are short and without NUL");
        return Ok((assigned, true));
    }
    let is_own =
        || text.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    if kind == PrincipalKind::Application || path.is_some_and(|path| path.device == name.as_str()) || is_own()
    {
        return Ok((client_id.clone(), false));
    }
    let short: String = text.chars().take(64).collect();
    Err(Refusal::MqttClientId(format!("`{}` does not belong to `{name}`", short.escape_debug())))
}

/// A client id for somebody who is nobody yet.
pub(crate) fn nameless(random: &dyn Random) -> MqttClientId {
    MqttClientId::parse(&random_id(random)).expect("base64url is short and without NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Same;
    impl Random for Same {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }

    fn judge(kind: PrincipalKind, text: &str) -> Result<(String, bool), Refusal> {
        let name = PrincipalName::parse("lamp").expect("a name");
        let id = MqttClientId::parse(text).expect("a client id");
        effective(kind, &name, &id, GooglePath::parse(text), &Same).map(|(id, made)| (id.to_string(), made))
    }

    #[test]
    fn a_device_uses_its_name_with_or_without_a_suffix_its_path_or_nothing() {
        for good in
            ["lamp", "lamp:", "lamp:1", "lamp:x/y", "projects/p/locations/l/registries/r/devices/lamp"]
        {
            assert_eq!(judge(PrincipalKind::Device, good).expect(good), (good.to_owned(), false));
        }
        let bads =
            ["lamp2", "Lamp", "x", "lam", ":lamp", "projects/p/locations/l/registries/r/devices/lamp2"];
        for bad in bads {
            assert!(matches!(judge(PrincipalKind::Device, bad), Err(Refusal::MqttClientId(_))), "{bad}");
        }
        let (assigned, made) = judge(PrincipalKind::Device, "").expect("assigned");
        assert!(made && assigned.starts_with("lamp:") && assigned.len() == 5 + 22, "{assigned}");
    }

    #[test]
    fn an_application_uses_any_client_id() {
        for good in ["x", "lamp", "other:1", "projects/p/locations/l/registries/r/devices/d"] {
            assert_eq!(judge(PrincipalKind::Application, good).expect(good).0, good);
        }
    }

    #[test]
    fn a_path_has_exactly_eight_parts() {
        let path = GooglePath::parse("projects/p/locations/l/registries/r/devices/d").expect("a path");
        assert_eq!((path.project, path.location, path.registry, path.device), ("p", "l", "r", "d"));
        for bad in [
            "projects/p/locations/l/registries/r/devices",
            "projects/p",
            "a/p/locations/l/registries/r/devices/d",
            "projects/p/locations/l/registries/r/devices/d/e",
            "/projects/p/locations/l/registries/r/devices/d",
        ] {
            assert!(GooglePath::parse(bad).is_none(), "{bad}");
        }
    }
}
