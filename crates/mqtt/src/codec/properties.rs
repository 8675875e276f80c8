//! Properties of MQTT 5: the table of identifiers, one strict reader, one writer.
//!
//! A block of properties is checked once, whole, when its packet is decoded. Those that may repeat
//! (user properties, subscription identifiers) are not collected: [`UserProperties`] and
//! [`SubscriptionIdentifiers`] keep the checked block and walk it when somebody looks.
//!
//! Source: MQTT 5.0 section 2.2.2.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use drawbridge_names::TopicName;

use super::wire::{VARIABLE_MAX, put_binary, put_string, put_u16, put_u32, put_variable};
use super::{DecodeError, EncodeError, PacketType, Qos, Reader};

macro_rules! property_ids {
    ($($name:ident = $byte:literal, $text:literal;)*) => {
        /// A property identifier.
        ///
        /// Source: MQTT 5.0 section 2.2.2.2, table 2-4.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $(#[doc = concat!("The ", $text, ".")] $name = $byte,)*
        }

        impl PropertyId {
            fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name in the standard, in lower case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

property_ids! {
    PayloadFormatIndicator = 0x01, "payload format indicator";
    MessageExpiryInterval = 0x02, "message expiry interval";
    ContentType = 0x03, "content type";
    ResponseTopic = 0x08, "response topic";
    CorrelationData = 0x09, "correlation data";
    SubscriptionIdentifier = 0x0B, "subscription identifier";
    SessionExpiryInterval = 0x11, "session expiry interval";
    AssignedClientIdentifier = 0x12, "assigned client identifier";
    ServerKeepAlive = 0x13, "server keep alive";
    AuthenticationMethod = 0x15, "authentication method";
    AuthenticationData = 0x16, "authentication data";
    RequestProblemInformation = 0x17, "request problem information";
    WillDelayInterval = 0x18, "will delay interval";
    RequestResponseInformation = 0x19, "request response information";
    ResponseInformation = 0x1A, "response information";
    ServerReference = 0x1C, "server reference";
    ReasonString = 0x1F, "reason string";
    ReceiveMaximum = 0x21, "receive maximum";
    TopicAliasMaximum = 0x22, "topic alias maximum";
    TopicAlias = 0x23, "topic alias";
    MaximumQos = 0x24, "maximum QoS";
    RetainAvailable = 0x25, "retain available";
    UserProperty = 0x26, "user property";
    MaximumPacketSize = 0x27, "maximum packet size";
    WildcardSubscriptionAvailable = 0x28, "wildcard subscription available";
    SubscriptionIdentifiersAvailable = 0x29, "subscription identifiers available";
    SharedSubscriptionAvailable = 0x2A, "shared subscription available";
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of property identifiers; all are below 64.
#[derive(Clone, Copy)]
pub(super) struct PropertySet(u64);

impl PropertySet {
    pub(super) const fn of(ids: &[PropertyId]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < ids.len() {
            bits |= 1 << ids[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    pub(super) const fn has(self, id: PropertyId) -> bool {
        self.0 & (1 << id as u8) != 0
    }

    fn add(&mut self, id: PropertyId) {
        self.0 |= 1 << id as u8;
    }
}

/// One property, its value parsed.
#[derive(Clone, Copy)]
pub(super) enum Property<'a> {
    PayloadFormatUtf8(bool),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(TopicName<'a>),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(NonZeroU32),
    SessionExpiry(u32),
    AssignedClientId(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQos(Qos),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(NonZeroU32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifiersAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// A block of properties that was read and found good.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    raw: &'a [u8],
    seen: PropertySet,
}

impl<'a> Block<'a> {
    /// Reads a block with its length, gives each property to `each`, and refuses those that are not in
    /// `allowed` or come twice. A subscription identifier may repeat in PUBLISH, a user property
    /// everywhere.
    pub(super) fn read(
        reader: &mut Reader<'a>,
        allowed: PropertySet,
        mut each: impl FnMut(Property<'a>),
    ) -> Result<Self, DecodeError> {
        let packet = reader.packet();
        let bytes = reader.variable("property length")?;
        let bytes = usize::try_from(bytes).expect("28 bits fit a usize");
        let raw = reader.take(bytes, "properties")?;
        let mut seen = PropertySet(0);
        let mut rest = Reader::new(raw, packet);
        while !rest.is_empty() {
            let id = read_id(&mut rest)?;
            if !allowed.has(id) {
                return Err(DecodeError::PropertyMisplaced { packet, property: id });
            }
            let repeats = id == PropertyId::UserProperty
                || (id == PropertyId::SubscriptionIdentifier && packet == PacketType::Publish);
            if seen.has(id) && !repeats {
                return Err(DecodeError::PropertyRepeated { packet, property: id });
            }
            seen.add(id);
            each(read_value(&mut rest, id)?);
        }
        Ok(Self { raw, seen })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    pub(super) fn has(&self, id: PropertyId) -> bool {
        self.seen.has(id)
    }

    pub(super) fn user_properties(&self) -> UserProperties<'a> {
        if self.has(PropertyId::UserProperty) {
            UserProperties(Source::Block(self.raw))
        } else {
            UserProperties::default()
        }
    }

    pub(super) fn subscription_identifiers(&self) -> SubscriptionIdentifiers<'a> {
        if self.has(PropertyId::SubscriptionIdentifier) {
            SubscriptionIdentifiers(Source::Block(self.raw))
        } else {
            SubscriptionIdentifiers::default()
        }
    }
}

fn read_id(reader: &mut Reader<'_>) -> Result<PropertyId, DecodeError> {
    // A variable byte integer by the letter of the standard; every one defined fits one byte.
    let found = reader.u8("property identifier")?;
    PropertyId::from_byte(found).ok_or(DecodeError::PropertyUnknown { packet: reader.packet(), found })
}

fn read_value<'a>(reader: &mut Reader<'a>, id: PropertyId) -> Result<Property<'a>, DecodeError> {
    let name = id.name();
    Ok(match id {
        PropertyId::PayloadFormatIndicator => Property::PayloadFormatUtf8(read_bool(reader, id)?),
        PropertyId::MessageExpiryInterval => Property::MessageExpiry(reader.u32(name)?),
        PropertyId::ContentType => Property::ContentType(reader.string(name)?),
        PropertyId::ResponseTopic => Property::ResponseTopic(reader.topic(name)?.ok_or({
            DecodeError::TopicMissing { packet: reader.packet(), field: name, alias_would_do: false }
        })?),
        PropertyId::CorrelationData => Property::CorrelationData(reader.binary(name)?),
        PropertyId::SubscriptionIdentifier => Property::SubscriptionIdentifier(
            NonZeroU32::new(reader.variable(name)?).ok_or_else(|| zero(reader, id))?,
        ),
        PropertyId::SessionExpiryInterval => Property::SessionExpiry(reader.u32(name)?),
        PropertyId::AssignedClientIdentifier => Property::AssignedClientId(reader.string(name)?),
        PropertyId::ServerKeepAlive => Property::ServerKeepAlive(reader.u16(name)?),
        PropertyId::AuthenticationMethod => Property::AuthenticationMethod(reader.string(name)?),
        PropertyId::AuthenticationData => Property::AuthenticationData(reader.binary(name)?),
        PropertyId::RequestProblemInformation => Property::RequestProblemInformation(read_bool(reader, id)?),
        PropertyId::WillDelayInterval => Property::WillDelay(reader.u32(name)?),
        PropertyId::RequestResponseInformation => {
            Property::RequestResponseInformation(read_bool(reader, id)?)
        }
        PropertyId::ResponseInformation => Property::ResponseInformation(reader.string(name)?),
        PropertyId::ServerReference => Property::ServerReference(reader.string(name)?),
        PropertyId::ReasonString => Property::ReasonString(reader.string(name)?),
        PropertyId::ReceiveMaximum => Property::ReceiveMaximum(read_nonzero_u16(reader, id)?),
        PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(reader.u16(name)?),
        PropertyId::TopicAlias => Property::TopicAlias(read_nonzero_u16(reader, id)?),
        PropertyId::MaximumQos => {
            Property::MaximumQos(if read_bool(reader, id)? { Qos::AtLeastOnce } else { Qos::AtMostOnce })
        }
        PropertyId::RetainAvailable => Property::RetainAvailable(read_bool(reader, id)?),
        PropertyId::UserProperty => Property::User(reader.string(name)?, reader.string(name)?),
        PropertyId::MaximumPacketSize => {
            Property::MaximumPacketSize(NonZeroU32::new(reader.u32(name)?).ok_or_else(|| zero(reader, id))?)
        }
        PropertyId::WildcardSubscriptionAvailable => {
            Property::WildcardSubscriptionAvailable(read_bool(reader, id)?)
        }
        PropertyId::SubscriptionIdentifiersAvailable => {
            Property::SubscriptionIdentifiersAvailable(read_bool(reader, id)?)
        }
        PropertyId::SharedSubscriptionAvailable => {
            Property::SharedSubscriptionAvailable(read_bool(reader, id)?)
        }
    })
}

fn read_bool(reader: &mut Reader<'_>, property: PropertyId) -> Result<bool, DecodeError> {
    match reader.u8(property.name())? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(DecodeError::PropertyValue {
            packet: reader.packet(),
            property,
            found: u32::from(found),
            wanted: "0 or 1",
        }),
    }
}

fn read_nonzero_u16(reader: &mut Reader<'_>, property: PropertyId) -> Result<NonZeroU16, DecodeError> {
    NonZeroU16::new(reader.u16(property.name())?).ok_or_else(|| zero(reader, property))
}

fn zero(reader: &Reader<'_>, property: PropertyId) -> DecodeError {
    DecodeError::PropertyValue { packet: reader.packet(), property, found: 0, wanted: "1 or more" }
}

/// Where the values of a repeatable property lie: in a checked block off the wire, or in a list of
/// whoever builds a packet.
#[derive(Clone, Copy)]
enum Source<'a, T> {
    Block(&'a [u8]),
    List(&'a [T]),
}

/// The properties of a checked block, once more.
#[derive(Clone)]
struct Walk<'a>(Reader<'a>);

impl<'a> Walk<'a> {
    fn new(block: &'a [u8]) -> Self {
        // The packet is named in faults only, and a checked block has none.
        Self(Reader::new(block, PacketType::Publish))
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let id = read_id(&mut self.0).expect("the block was checked by `Block::read`");
        Some(read_value(&mut self.0, id).expect("the block was checked by `Block::read`"))
    }
}

/// User properties: pairs of name and value in the order in which they were sent; names may repeat.
/// `Debug` shows names only.
///
/// Source: MQTT 5.0 sections 3.1.2.11.8, 3.3.2.3.7 and their like.
#[derive(Clone, Copy)]
pub struct UserProperties<'a>(Source<'a, (&'a str, &'a str)>);

impl<'a> UserProperties<'a> {
    /// Those of a packet that is being built.
    #[must_use]
    pub fn of(pairs: &'a [(&'a str, &'a str)]) -> Self {
        Self(Source::List(pairs))
    }

    /// Whether there is none; costs nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Source::List([]))
    }

    /// The pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let (block, list): (&'a [u8], &'a [(&'a str, &'a str)]) = match self.0 {
            Source::Block(block) => (block, &[]),
            Source::List(list) => (&[], list),
        };
        let walked = Walk::new(block).filter_map(|property| match property {
            Property::User(name, value) => Some((name, value)),
            _ => None,
        });
        walked.chain(list.iter().copied())
    }

    /// The value of the first pair with this name.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}

impl Default for UserProperties<'_> {
    fn default() -> Self {
        Self(Source::List(&[]))
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// The identifiers of the subscriptions for which a message is delivered; from server to client only.
///
/// Source: MQTT 5.0 section 3.3.2.3.8.
#[derive(Clone, Copy)]
pub struct SubscriptionIdentifiers<'a>(Source<'a, NonZeroU32>);

impl<'a> SubscriptionIdentifiers<'a> {
    /// Those of a packet that is being built, each at most 268,435,455.
    #[must_use]
    pub fn of(list: &'a [NonZeroU32]) -> Self {
        Self(Source::List(list))
    }

    /// Whether there is none; costs nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Source::List([]))
    }

    /// The identifiers.
    pub fn iter(&self) -> impl Iterator<Item = NonZeroU32> + use<'a> {
        let (block, list): (&'a [u8], &'a [NonZeroU32]) = match self.0 {
            Source::Block(block) => (block, &[]),
            Source::List(list) => (&[], list),
        };
        let walked = Walk::new(block).filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        });
        walked.chain(list.iter().copied())
    }
}

impl Default for SubscriptionIdentifiers<'_> {
    fn default() -> Self {
        Self(Source::List(&[]))
    }
}

impl PartialEq for SubscriptionIdentifiers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIdentifiers<'_> {}

impl fmt::Debug for SubscriptionIdentifiers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Writes the properties of a block whose length `wire::put_section` puts before it. An absent value
/// writes nothing.
pub(super) struct PropertyWriter<'o>(pub(super) &'o mut Vec<u8>);

impl PropertyWriter<'_> {
    pub(super) fn bool(&mut self, id: PropertyId, value: Option<bool>) {
        if let Some(value) = value {
            self.0.extend_from_slice(&[id as u8, u8::from(value)]);
        }
    }

    pub(super) fn u16(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.0.push(id as u8);
            put_u16(self.0, value);
        }
    }

    pub(super) fn u32(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.0.push(id as u8);
            put_u32(self.0, value);
        }
    }

    pub(super) fn variable(&mut self, id: PropertyId, value: NonZeroU32) -> Result<(), EncodeError> {
        self.0.push(id as u8);
        let value = value.get();
        match usize::try_from(value) {
            Ok(fits) if fits <= VARIABLE_MAX => put_variable(self.0, fits),
            _ => Err(EncodeError::VariableTooLarge { field: id.name(), found: value }),
        }
    }

    pub(super) fn binary(&mut self, id: PropertyId, value: Option<&[u8]>) -> Result<(), EncodeError> {
        let Some(value) = value else { return Ok(()) };
        self.0.push(id as u8);
        put_binary(self.0, id.name(), value)
    }

    pub(super) fn string(&mut self, id: PropertyId, value: Option<&str>) -> Result<(), EncodeError> {
        let Some(value) = value else { return Ok(()) };
        self.0.push(id as u8);
        put_string(self.0, id.name(), value)
    }

    pub(super) fn user(&mut self, pairs: UserProperties<'_>) -> Result<(), EncodeError> {
        let id = PropertyId::UserProperty;
        for (name, value) in pairs.iter() {
            self.0.push(id as u8);
            put_string(self.0, id.name(), name)?;
            put_string(self.0, id.name(), value)?;
        }
        Ok(())
    }

    pub(super) fn subscription_identifiers(
        &mut self,
        list: SubscriptionIdentifiers<'_>,
    ) -> Result<(), EncodeError> {
        for id in list.iter() {
            self.variable(PropertyId::SubscriptionIdentifier, id)?;
        }
        Ok(())
    }
}
