//! Patterns as the operator wrote them, and the variables that are put into them.

use std::collections::BTreeMap;
use std::sync::Arc;

use drawbridge_names::{PrincipalName, RegistryName, TopicFilter};

use crate::connection::{Connection, SubjectField};
use crate::error::VariableFault;
use crate::pattern::Pattern;

/// The values for one principal. All come from fields that only the operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Variables<'a> {
    /// `${device}`: the name of the principal, whatever its kind.
    pub device: &'a PrincipalName,
    /// `${registry}`: the registry it belongs to.
    pub registry: &'a RegistryName,
    /// `${attr.x}`: its attribute `x`.
    pub attributes: &'a BTreeMap<String, String>,
}

/// A pattern as written, taken apart once.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    written: Arc<str>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    /// No variable: every principal shares the one pattern.
    Fixed(Pattern),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    Device,
    Registry,
    /// Name of the attribute, without `attr.`.
    Attribute(String),
    /// Field of a certificate that a CA of the registry vouches for.
    Certificate(SubjectField),
    /// Name of the claim, without `token.`.
    Claim(String),
}

impl Template {
    /// Takes a pattern apart. The error text says what was found and wanted.
    pub(crate) fn parse(written: &str) -> Result<Self, String> {
        let parts = split(written)?;
        // Any value is one or more characters that are no syntax, so a stand-in of the same length
        // shows whether the pattern will be a filter, with the right byte offsets in the error.
        let mut shape = String::with_capacity(written.len());
        for part in &parts {
            match part {
                Part::Literal(text) => shape.push_str(text),
                Part::Device => shape.push_str("x_device_"),
                Part::Registry => shape.push_str("x_registry_"),
                Part::Attribute(name) => shape.extend(std::iter::repeat_n('x', name.len() + 8)),
                Part::Certificate(field) => shape.extend(std::iter::repeat_n('x', field.as_str().len() + 8)),
                Part::Claim(name) => shape.extend(std::iter::repeat_n('x', name.len() + 9)),
            }
        }
        let filter = TopicFilter::parse(&shape).map_err(|error| error.to_string())?;
        let body = match parts.as_slice() {
            [Part::Literal(_)] => Body::Fixed(Pattern::new(filter)),
            _ => Body::Parts(parts),
        };
        Ok(Self { written: written.into(), body })
    }

    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// The pattern, where it has no variable.
    pub(crate) fn fixed(&self) -> Option<&Pattern> {
        match &self.body {
            Body::Fixed(pattern) => Some(pattern),
            Body::Parts(_) => None,
        }
    }

    /// Whether a value of it is another one for each connection.
    pub(crate) fn needs_connection(&self) -> bool {
        match &self.body {
            Body::Fixed(_) => false,
            Body::Parts(parts) => {
                parts.iter().any(|part| matches!(part, Part::Certificate(_) | Part::Claim(_)))
            }
        }
    }

    /// Puts the values in.
    pub(crate) fn compile(
        &self,
        variables: &Variables<'_>,
        connection: &Connection<'_>,
    ) -> Result<Pattern, VariableFault> {
        let parts = match &self.body {
            Body::Fixed(pattern) => return Ok(pattern.clone()),
            Body::Parts(parts) => parts,
        };
        let mut text = String::with_capacity(self.written.len() + 32);
        for part in parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Device => text.push_str(value("device", variables.device.as_str())?),
                Part::Registry => text.push_str(value("registry", variables.registry.as_str())?),
                Part::Attribute(name) => {
                    let found = variables.attributes.get(name).map(String::as_str);
                    text.push_str(known(format!("attr.{name}"), found)?);
                }
                Part::Certificate(field) => {
                    let found = connection.certificate.and_then(|certificate| certificate.field(*field));
                    text.push_str(known(format!("cert.{field}"), found)?);
                }
                Part::Claim(name) => {
                    let found = connection.token.and_then(|claims| claims.claim(name));
                    text.push_str(known(format!("token.{name}"), found)?);
                }
            }
        }
        Ok(Pattern::new(TopicFilter::parse(&text).map_err(VariableFault::Filter)?))
    }
}

fn known(name: String, found: Option<&str>) -> Result<&str, VariableFault> {
    match found {
        Some(found) => value(&name, found),
        None => Err(VariableFault::Missing { name }),
    }
}

fn value<'v>(name: &str, value: &'v str) -> Result<&'v str, VariableFault> {
    let name = || name.to_owned();
    if value.is_empty() {
        return Err(VariableFault::Empty { name: name() });
    }
    if value.starts_with('$') {
        return Err(VariableFault::Dollar { name: name() });
    }
    match value.char_indices().find(|(_, c)| matches!(c, '+' | '#' | '/') || c.is_control()) {
        Some((at, found)) => Err(VariableFault::Character { name: name(), found, at }),
        None => Ok(value),
    }
}

const WANTED: &str = "wanted `${device}`, `${registry}`, `${attr.NAME}` or `${token.NAME}` with NAME of letters, \
                      digits, `_`, `-`, or `${cert.FIELD}` with FIELD one of cn, o, ou, c, l, st, serial_number";

fn split(written: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = written;
    while let Some(start) = rest.find("${") {
        if start > 0 {
            parts.push(Part::Literal(rest[..start].to_owned()));
        }
        let inner = &rest[start + 2..];
        let end = inner.find('}').ok_or_else(|| format!("`${{` is not closed by `}}`; {WANTED}"))?;
        parts.push(match &inner[..end] {
            "device" => Part::Device,
            "registry" => Part::Registry,
            name => match name.split_once('.') {
                Some(("attr", attribute)) if is_plain_name(attribute) => {
                    Part::Attribute(attribute.to_owned())
                }
                Some(("token", claim)) if is_plain_name(claim) => Part::Claim(claim.to_owned()),
                Some(("cert", field)) if let Some(field) = SubjectField::of_word(field) => {
                    Part::Certificate(field)
                }
                _ => return Err(format!("`${{{}}}` is no variable; {WANTED}", name.escape_debug())),
            },
        });
        rest = &inner[end + 1..];
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(written: &str, attributes: &[(&str, &str)]) -> Result<String, VariableFault> {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let variables = Variables {
            device: &PrincipalName::parse("lamp").expect("a name"),
            registry: &RegistryName::default_registry(),
            attributes: &attributes,
        };
        Template::parse(written)
            .expect(written)
            .compile(&variables, &Connection::default())
            .map(|p| p.filter().to_string())
    }

    #[test]
    fn variables_are_replaced_once_wherever_they_stand() {
        let table = [
            ("devices/${device}/events/#", "devices/lamp/events/#"),
            ("${registry}/${device}", "default/lamp"),
            ("a-${device}-b/+", "a-lamp-b/+"),
            ("${attr.site}/${attr.site}", "hall/hall"),
            ("$$/{x}/$", "$$/{x}/$"),
            ("${attr.odd}", "x${device}"), // what a value brings along is not looked at again
        ];
        for (written, expected) in table {
            let found = compile(written, &[("site", "hall"), ("odd", "x${device}")]).expect(written);
            assert_eq!(found, expected, "{written}");
        }
    }

    #[test]
    fn a_value_that_could_change_the_shape_of_a_pattern_is_refused() {
        for bad in ["", "$SYS", "$", "+", "a+", "#", "a/b", "/", "a\0", "a\n", "a\u{7f}", "a\u{85}"] {
            let refused = compile("t/${attr.site}", &[("site", bad)]);
            assert!(refused.is_err(), "{bad:?}: {refused:?}");
        }
        assert!(matches!(compile("t/${attr.site}", &[]), Err(VariableFault::Missing { .. })));
        let long = "x".repeat(70_000);
        assert!(matches!(compile("${attr.a}", &[("a", &long)]), Err(VariableFault::Filter(_))));
    }

    #[test]
    fn unknown_and_unclosed_variables_are_faults_of_the_document() {
        for bad in [
            "${}",
            "${cert.dn}",
            "${cert.}",
            "${token.a.b}",
            "${Device}",
            "a/${device",
            "${attr.}",
            "${attr.a b}",
            "${attr}",
            "${user}",
            "+${device}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
