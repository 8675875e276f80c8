//! What is known of a connection, and what a policy asks of it: `when`.
//!
//! Judged once, when the rights of a connection are compiled; a decision does not ask again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use drawbridge_names::{PrincipalName, RegistryName};
use toml::Spanned;
use toml::de::DeValue;

use crate::template::Variables;
use crate::token::{integer, shown};

/// Most values in one list of a `when`.
const VALUES_MAX: usize = 64;

/// One connection: what it looks like, and what was proven of the principal beyond its name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connection<'a> {
    /// What it looks like.
    pub facts: ConnectionFacts<'a>,
    /// The subject of a certificate whose chain was verified against a CA of the registry.
    pub certificate: Option<&'a VerifiedCertificate>,
    /// Claims of an access token that an issuer signed.
    pub token: Option<&'a IssuerClaims>,
}

/// What a connection looks like. `None` is *not known*: then no allow that asks for it speaks, and every deny
/// that asks for it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionFacts<'a> {
    /// What is spoken.
    pub protocol: Option<Protocol>,
    /// Whether MQTT comes in frames of WebSocket.
    pub websocket: Option<bool>,
    /// The local port it came to.
    pub port: Option<u16>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
    /// How it is protected.
    pub tls: Option<Tls>,
    /// How the principal proved who it is.
    pub method: Option<Method>,
    /// The MQTT client id.
    pub client_id: Option<&'a str>,
}

/// Whose rights these are and over which connection, for when they are compiled anew.
#[derive(Debug)]
pub(crate) struct Origin {
    device: PrincipalName,
    registry: RegistryName,
    attributes: BTreeMap<String, String>,
    facts: ConnectionFacts<'static>,
    client_id: Option<String>,
    certificate: Option<VerifiedCertificate>,
    token: Option<IssuerClaims>,
}

impl Origin {
    pub(crate) fn of(variables: &Variables<'_>, connection: &Connection<'_>) -> Self {
        Self {
            device: variables.device.clone(),
            registry: variables.registry.clone(),
            attributes: variables.attributes.clone(),
            facts: ConnectionFacts { client_id: None, ..connection.facts },
            client_id: connection.facts.client_id.map(str::to_owned),
            certificate: connection.certificate.cloned(),
            token: connection.token.cloned(),
        }
    }

    pub(crate) fn variables(&self) -> Variables<'_> {
        Variables { device: &self.device, registry: &self.registry, attributes: &self.attributes }
    }

    pub(crate) fn connection(&self) -> Connection<'_> {
        Connection {
            facts: ConnectionFacts { client_id: self.client_id.as_deref(), ..self.facts },
            certificate: self.certificate.as_ref(),
            token: self.token.as_ref(),
        }
    }
}

/// Makes an enum whose values have names in the document.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its word in a policy.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The one with this word.
            #[must_use]
            pub fn of_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What is spoken over a connection.
    Protocol {
        /// MQTT 3.1.1.
        Mqtt3 = "mqtt3",
        /// MQTT 5.0.
        Mqtt5 = "mqtt5",
        /// HTTP: publishing with `POST`.
        Http = "http",
    }
}

words! {
    /// How a connection is protected.
    Tls {
        /// Not at all.
        None = "none",
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
}

words! {
    /// How a principal proved who it is.
    Method {
        /// User name and password.
        Password = "password",
        /// A JWT that the device signed.
        Jwt = "jwt",
        /// An access token, JWT or opaque.
        Token = "token",
        /// A TLS client certificate.
        Certificate = "certificate",
        /// A TLS raw public key (RFC 7250).
        RawKey = "raw-key",
        /// The profile of RFC 9431.
        Ace = "ace",
        /// Nothing at all, on a listener that lets such clients in.
        Anonymous = "anonymous",
    }
}

words! {
    /// A field of the subject of a certificate.
    SubjectField {
        /// Common name, 2.5.4.3.
        CommonName = "cn",
        /// Serial number of the subject, 2.5.4.5.
        SerialNumber = "serial_number",
        /// Country, 2.5.4.6.
        Country = "c",
        /// Locality, 2.5.4.7.
        Locality = "l",
        /// State or province, 2.5.4.8.
        State = "st",
        /// Organisation, 2.5.4.10.
        Organization = "o",
        /// Organisational unit, 2.5.4.11.
        OrganizationalUnit = "ou",
    }
}

/// The subject of a certificate that a CA of the registry vouches for: `${cert.cn}` and its like.
///
/// There is no way to make one of a certificate alone: whoever calls [`Self::of_verified_chain`] has verified
/// the chain up to a CA that the operator registered. A self-signed certificate says whatever its device
/// likes, and is never put into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCertificate(BTreeMap<SubjectField, String>);

impl VerifiedCertificate {
    /// The subject of a certificate whose chain to a registered CA was verified. A field that stands there
    /// twice has no value: it would be for the holder to say which one counts.
    #[must_use]
    pub fn of_verified_chain(subject: impl IntoIterator<Item = (SubjectField, String)>) -> Self {
        let mut fields: BTreeMap<SubjectField, Option<String>> = BTreeMap::new();
        for (field, value) in subject {
            fields.entry(field).and_modify(|twice| *twice = None).or_insert(Some(value));
        }
        Self(fields.into_iter().filter_map(|(field, value)| Some((field, value?))).collect())
    }

    pub(crate) fn field(&self, field: SubjectField) -> Option<&str> {
        self.0.get(&field).map(String::as_str)
    }
}

/// Claims of an access token signed by an issuer that the registry trusts: `${token.NAME}`.
///
/// Never those of a JWT that a device signed for itself: [`Self::of_access_token`] is for who has verified
/// the signature of the issuer, or found the token in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerClaims(BTreeMap<String, String>);

impl IssuerClaims {
    /// The text claims of a token whose issuer was verified.
    #[must_use]
    pub fn of_access_token(claims: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(claims.into_iter().collect())
    }

    pub(crate) fn claim(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// What a rule, or the whole document, asks of a connection: `when`. All lists that are there must agree, of
/// each list one value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct When {
    protocols: Vec<Spoken>,
    ports: Vec<u16>,
    addresses: Vec<Range>,
    tls: Vec<Tls>,
    methods: Vec<Method>,
    client_ids: Vec<String>,
}

/// A word of `when.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Protocol(Protocol),
    /// MQTT of any version over WebSocket.
    WebSocket,
}

impl Spoken {
    const WEBSOCKET: &'static str = "ws";

    fn of_word(word: &str) -> Option<Self> {
        if word == Self::WEBSOCKET {
            return Some(Self::WebSocket);
        }
        Protocol::of_word(word).map(Self::Protocol)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Protocol(protocol) => protocol.as_str(),
            Self::WebSocket => Self::WEBSOCKET,
        }
    }
}

impl When {
    /// Whether a connection is what is asked for; `None` when too little is known of it.
    #[must_use]
    pub fn holds(&self, facts: &ConnectionFacts<'_>) -> Option<bool> {
        let among = |found: Option<bool>, asked: bool| if asked { found } else { Some(true) };
        // One word that is met is enough, whatever the others would need to know.
        let spoken: Vec<Option<bool>> = (self.protocols.iter())
            .map(|spoken| match spoken {
                Spoken::Protocol(protocol) => facts.protocol.map(|found| found == *protocol),
                Spoken::WebSocket => facts.websocket,
            })
            .collect();
        let protocol = match () {
            () if spoken.contains(&Some(true)) => Some(true),
            () if spoken.contains(&None) => None,
            () => Some(false),
        };
        let answers = [
            among(protocol, !self.protocols.is_empty()),
            among(facts.port.map(|port| self.ports.contains(&port)), !self.ports.is_empty()),
            among(
                facts.address.map(|address| self.addresses.iter().any(|range| range.has(address))),
                !self.addresses.is_empty(),
            ),
            among(facts.tls.map(|tls| self.tls.contains(&tls)), !self.tls.is_empty()),
            among(facts.method.map(|method| self.methods.contains(&method)), !self.methods.is_empty()),
            among(
                facts.client_id.map(|id| self.client_ids.iter().any(|pattern| star_matches(pattern, id))),
                !self.client_ids.is_empty(),
            ),
        ];
        if answers.contains(&Some(false)) {
            return Some(false);
        }
        if answers.contains(&None) { None } else { Some(true) }
    }

    pub(crate) fn read(
        value: &Spanned<DeValue<'_>>,
        place: &str,
        fault: &mut dyn FnMut(usize, &str, String),
    ) -> Self {
        let mut when = Self::default();
        let DeValue::Table(table) = value.get_ref() else {
            let text = format!(
                "found a {}; wanted a table like `{{ protocol = [\"mqtt5\"] }}`",
                value.get_ref().type_str()
            );
            fault(value.span().start, place, text);
            return when;
        };
        if table.is_empty() {
            let text = format!("it asks for nothing; wanted one or more of {WHEN_KEYS}, or no `when`");
            fault(value.span().start, place, text);
        }
        for (key, value) in table {
            when.read_key(key, value, place, fault);
        }
        when
    }

    fn read_key(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        place: &str,
        fault: &mut dyn FnMut(usize, &str, String),
    ) {
        let name = key.get_ref().as_ref();
        let place = format!("{place}.{name}");
        match name {
            "protocol" => {
                let wanted = "\"mqtt3\", \"mqtt5\", \"ws\" or \"http\"";
                self.protocols = list(value, &place, wanted, fault, |value| Spoken::of_word(text(value)?));
            }
            "port" => {
                let wanted = "a port from 1 to 65535";
                self.ports = list(value, &place, wanted, fault, |value| {
                    integer(value, 1, 65_535).ok().and_then(|port| u16::try_from(port).ok())
                });
            }
            "address" => {
                let wanted = "an address or a range like \"10.0.0.0/8\" or \"fd00::/8\", without bits behind its prefix";
                self.addresses = list(value, &place, wanted, fault, |value| Range::parse(text(value)?));
            }
            "tls" => {
                let wanted = "\"1.3\", \"1.2\" or \"none\"";
                self.tls = list(value, &place, wanted, fault, |value| Tls::of_word(text(value)?));
            }
            "method" => {
                let wanted = "\"password\", \"jwt\", \"token\", \"certificate\", \"raw-key\", \"ace\" or \"anonymous\"";
                self.methods = list(value, &place, wanted, fault, |value| Method::of_word(text(value)?));
            }
            "client_id" => {
                let wanted = "a client id; `*` stands for any characters";
                self.client_ids = list(value, &place, wanted, fault, |value| {
                    text(value).filter(|id| !id.is_empty() && id.len() <= 512).map(str::to_owned)
                });
            }
            other => {
                let text = format!("unknown key `{}`; wanted {WHEN_KEYS}", other.escape_debug());
                fault(key.span().start, &place, text);
            }
        }
    }
}

const WHEN_KEYS: &str = "`protocol`, `port`, `address`, `tls`, `method` or `client_id`";

fn text<'v>(value: &'v Spanned<DeValue<'_>>) -> Option<&'v str> {
    match value.get_ref() {
        DeValue::String(text) => Some(text),
        _ => None,
    }
}

fn list<T>(
    value: &Spanned<DeValue<'_>>,
    place: &str,
    wanted: &str,
    fault: &mut dyn FnMut(usize, &str, String),
    take: impl Fn(&Spanned<DeValue<'_>>) -> Option<T>,
) -> Vec<T> {
    let DeValue::Array(values) = value.get_ref() else {
        let text = format!("found {}; wanted a list, each of {wanted}", shown(value.get_ref()));
        fault(value.span().start, place, text);
        return Vec::new();
    };
    if values.is_empty() || values.len() > VALUES_MAX {
        let text = format!("found {} values; wanted 1 to {VALUES_MAX}, each {wanted}", values.len());
        fault(value.span().start, place, text);
        return Vec::new();
    }
    let mut taken = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match take(value) {
            Some(one) => taken.push(one),
            None => {
                let text = format!("found {}; wanted {wanted}", shown(value.get_ref()));
                fault(value.span().start, &format!("{place}[{index}]"), text);
            }
        }
    }
    taken
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn words<T>(values: &[T], word: impl Fn(&T) -> String) -> String {
            values.iter().map(word).collect::<Vec<_>>().join(" or ")
        }
        let asked = [
            ("protocol", words(&self.protocols, |spoken| spoken.as_str().to_owned())),
            ("port", words(&self.ports, ToString::to_string)),
            ("address", words(&self.addresses, ToString::to_string)),
            ("tls", words(&self.tls, ToString::to_string)),
            ("method", words(&self.methods, ToString::to_string)),
            ("client_id", words(&self.client_ids, |id| id.escape_debug().to_string())),
        ];
        let mut first = true;
        for (key, values) in asked.iter().filter(|(_, values)| !values.is_empty()) {
            let and = if std::mem::take(&mut first) { "" } else { ", " };
            write!(f, "{and}{key} is {values}")?;
        }
        Ok(())
    }
}

/// A range of addresses: CIDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    prefix: u8,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
                (address, Some(plain.then(|| prefix.parse::<u8>().ok()).flatten()?))
            }
            None => (text, None),
        };
        let first: IpAddr = address.parse().ok()?;
        // An address of version 4 in the clothes of version 6 would never be met: see `has`.
        if first.to_canonical() != first {
            return None;
        }
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let range = Self { first, prefix: prefix.unwrap_or(longest) };
        (range.prefix <= longest && bits(first) & !range.mask() == 0).then_some(range)
    }

    fn mask(&self) -> u128 {
        let (longest, all) = if self.first.is_ipv4() { (32, u128::from(u32::MAX)) } else { (128, u128::MAX) };
        let below = longest - u32::from(self.prefix);
        all & u128::MAX.checked_shl(below).unwrap_or(0)
    }

    fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && bits(address) & self.mask() == bits(self.first)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether `text` is `pattern`, each `*` standing for any characters or none.
fn star_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(between) = last.replace(part) {
            match rest.find(between) {
                Some(at) => rest = &rest[at + between.len()..],
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |end| rest.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(toml: &str) -> Result<When, String> {
        let table = toml::de::DeTable::parse(toml).expect("TOML");
        let mut faults = Vec::new();
        let value = table.get_ref().get("when").expect("a `when`");
        let when = When::read(value, "when", &mut |_, place, text| faults.push(format!("{place}: {text}")));
        if faults.is_empty() { Ok(when) } else { Err(faults.join("; ")) }
    }

    fn from(address: &str) -> ConnectionFacts<'static> {
        ConnectionFacts { address: Some(address.parse().expect("an address")), ..ConnectionFacts::default() }
    }

    #[test]
    fn every_condition_holds_fails_or_is_not_known() {
        let known = ConnectionFacts {
            protocol: Some(Protocol::Mqtt5),
            websocket: Some(true),
            port: Some(8883),
            address: Some([10, 1, 2, 3].into()),
            tls: Some(Tls::V13),
            method: Some(Method::Certificate),
            client_id: Some("pump-7"),
        };
        let table = [
            ("protocol = ['mqtt5']", Some(true)),
            ("protocol = ['mqtt3', 'http']", Some(false)),
            ("protocol = ['mqtt3', 'ws']", Some(true)),
            ("port = [8883]", Some(true)),
            ("port = [443, 8443]", Some(false)),
            ("address = ['10.0.0.0/8']", Some(true)),
            ("address = ['10.1.2.3']", Some(true)),
            ("address = ['10.1.2.2/31']", Some(true)),
            ("address = ['10.1.2.4/30', 'fd00::/8']", Some(false)),
            ("address = ['0.0.0.0/0']", Some(true)),
            ("address = ['::/0']", Some(false)),
            ("tls = ['1.3']", Some(true)),
            ("tls = ['1.2', 'none']", Some(false)),
            ("method = ['jwt', 'certificate']", Some(true)),
            ("method = ['password']", Some(false)),
            ("client_id = ['pump-*']", Some(true)),
            ("client_id = ['lamp-*', '7']", Some(false)),
            ("port = [8883], tls = ['1.2']", Some(false)),
            ("port = [8883], tls = ['1.3']", Some(true)),
        ];
        for (asked, expected) in table {
            let when = when(&format!("when = {{ {asked} }}")).expect(asked);
            assert_eq!(when.holds(&known), expected, "{asked}");
            assert_eq!(when.holds(&ConnectionFacts::default()), None, "{asked}");
            assert!(!when.to_string().is_empty());
        }
        let both = when("when = { port = [1], tls = ['1.3'] }").expect("a when");
        let half = ConnectionFacts { port: Some(2), ..ConnectionFacts::default() };
        assert_eq!(both.holds(&half), Some(false), "one that fails is enough");
        assert_eq!(both.to_string(), "port is 1, tls is 1.3");
    }

    #[test]
    fn an_address_of_version_4_is_one_in_whatever_clothes_it_comes() {
        let when = when("when = { address = ['192.0.2.0/24', '2001:db8::/32'] }").expect("a when");
        for (address, expected) in [
            ("192.0.2.255", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.3.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("::192.0.2.1", false),
        ] {
            assert_eq!(when.holds(&from(address)), Some(expected), "{address}");
        }
    }

    #[test]
    fn a_when_that_asks_for_something_else_is_a_fault() {
        for bad in [
            "when = 1",
            "when = {}",
            "when = { colour = ['red'] }",
            "when = { protocol = 'mqtt5' }",
            "when = { protocol = [] }",
            "when = { protocol = ['mqtt4'] }",
            "when = { port = [0] }",
            "when = { port = ['8883'] }",
            "when = { port = [65536] }",
            "when = { address = ['10.0.0.1/8'] }",
            "when = { address = ['10.0.0.0/33'] }",
            "when = { address = ['10.0.0.0/'] }",
            "when = { address = ['10.0.0.0/+8'] }",
            "when = { address = ['::ffff:10.0.0.1'] }",
            "when = { address = ['localhost'] }",
            "when = { tls = ['1.1'] }",
            "when = { method = ['JWT'] }",
            "when = { client_id = [''] }",
        ] {
            let fault = when(bad).expect_err(bad);
            assert!(fault.contains("wanted"), "{bad}: {fault}");
        }
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "x", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("a*bc*c", "abc", false),
            ("a**c", "abc", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*ab*ab", "ab", false),
        ] {
            assert_eq!(star_matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_field_that_stands_twice_in_a_subject_has_no_value() {
        use SubjectField::{CommonName, OrganizationalUnit};
        let subject = [
            (OrganizationalUnit, "a"),
            (CommonName, "p"),
            (OrganizationalUnit, "b"),
            (OrganizationalUnit, "c"),
        ];
        let verified = VerifiedCertificate::of_verified_chain(subject.map(|(f, v)| (f, v.to_owned())));
        assert_eq!((verified.field(CommonName), verified.field(OrganizationalUnit)), (Some("p"), None));
    }
}
