//! `HOST:PORT`, as brokers are configured with and clients connect to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Longest host name that DNS allows.
const HOST_BYTES_MAX: usize = 253;
/// Longest part of a host name between two dots.
const LABEL_BYTES_MAX: usize = 63;
/// Digits of the largest IPv4 address, written as one number.
const IPV4_NUMBER_BYTES_MAX: usize = 10;

/// A host and a port. The host is a name, an IPv4 address or an IPv6 address; [`Display`](fmt::Display) writes an IPv6
/// address in brackets, as [`FromStr`] reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is not an address, or not one for its purpose.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not an address HOST:PORT: {reason}", given.escape_debug())]
pub struct AddressError {
    /// What was given.
    pub given: String,
    /// What is wrong with it.
    pub reason: AddressFault,
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressFault {
    /// `PLAINTEXT://HOST:PORT`.
    #[error("leave out '{0}://'")]
    Scheme(String),
    /// No colon, or none behind the brackets.
    #[error("the port is missing")]
    NoPort,
    /// Not a number from 0 to 65535.
    #[error("the port '{0}' is not a whole number from 0 to 65535")]
    Port(String),
    /// Nothing in front of the port.
    #[error("the host is missing")]
    NoHost,
    /// An IPv6 address whose end cannot be distinguished from the port.
    #[error("an IPv6 address is written in brackets, like [::1]:9092")]
    Unbracketed,
    /// Something else than an IPv6 address in brackets.
    #[error("'{0}' is not an IPv6 address")]
    NotIpv6(String),
    /// Numbers and dots, but not an IPv4 address.
    #[error("'{0}' is not an IPv4 address")]
    NotIpv4(String),
    /// A character that no host name has.
    #[error("a host name has no {0:?}")]
    Character(char),
    /// A name, or a part of one, that is empty or too long.
    #[error("a host name has at most 253 characters, and between two dots 1 to 63")]
    Length,
    /// Port 0 as a destination.
    #[error("port 0 cannot be connected to")]
    PortZero,
    /// The address that stands for every address of a machine.
    #[error("{0} stands for every address of this machine; give the one by which clients reach it")]
    Unspecified(String),
    /// An IPv6 address that has a zone.
    #[error("the zone '%{0}' is known on this machine only")]
    Zone(String),
}

impl Address {
    /// A name, IPv4 address or IPv6 address (without brackets) and a port.
    pub fn new(host: &str, port: u16) -> Result<Address, AddressError> {
        let checked = if host.contains(':') { check_ipv6(host) } else { check_name(host) };
        let address = Address { host: host.to_string(), port };
        checked.map(|()| address.clone()).map_err(|reason| refused(&address.to_string(), reason))
    }

    /// The host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host at another port.
    pub fn at_port(&self, port: u16) -> Address {
        Address { host: self.host.clone(), port }
    }

    /// Reads an address that can be connected to: any but port 0.
    pub fn destination(text: &str) -> Result<Address, AddressError> {
        let address: Address = text.parse()?;
        match address.port {
            0 => Err(refused(text, AddressFault::PortZero)),
            _ => Ok(address),
        }
    }

    /// Reads an address that other machines can be given: a destination that means the same machine everywhere.
    pub fn advertised(text: &str) -> Result<Address, AddressError> {
        let address = Address::destination(text)?;
        let (ip, zone) =
            address.host.split_once('%').map_or((&*address.host, None), |(ip, zone)| (ip, Some(zone)));
        if let Some(zone) = zone {
            return Err(refused(text, AddressFault::Zone(zone.to_string())));
        }
        match ip.parse::<IpAddr>() {
            Ok(ip) if ip.to_canonical().is_unspecified() => {
                Err(refused(text, AddressFault::Unspecified(address.host)))
            }
            _ => Ok(address),
        }
    }

    /// Reads destinations that are separated by commas; spaces around them do not count.
    pub fn destinations(text: &str) -> Result<Vec<Address>, AddressError> {
        let given = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        let addresses = given.map(Address::destination).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() { Err(refused(text, AddressFault::NoHost)) } else { Ok(addresses) }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        parse(text).map_err(|reason| refused(text, reason))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn refused(given: &str, reason: AddressFault) -> AddressError {
    AddressError { given: given.to_string(), reason }
}

fn parse(text: &str) -> Result<Address, AddressFault> {
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(AddressFault::Scheme(scheme.to_string()));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(|| AddressFault::NotIpv6(text.to_string()))?;
            check_ipv6(host)?;
            (host, rest.strip_prefix(':').ok_or(AddressFault::NoPort)?)
        }
        None => {
            let (host, port) = text.rsplit_once(':').ok_or(AddressFault::NoPort)?;
            if host.contains(':') {
                return Err(AddressFault::Unbracketed);
            }
            check_name(host)?;
            (host, port)
        }
    };
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { port.parse().ok() } else { None };
    let port = number.ok_or_else(|| match port {
        "" => AddressFault::NoPort,
        port => AddressFault::Port(port.to_string()),
    })?;
    Ok(Address { host: host.to_string(), port })
}

/// An IPv6 address, which may have a zone: `fe80::1%eth0`.
fn check_ipv6(host: &str) -> Result<(), AddressFault> {
    let (ip, zone) = host.split_once('%').unwrap_or((host, "0"));
    let is_zone = !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    match ip.parse::<Ipv6Addr>() {
        Ok(_) if is_zone => Ok(()),
        _ => Err(AddressFault::NotIpv6(host.to_string())),
    }
}

/// A host name or an IPv4 address. Names are those of DNS, and may have `_`, as names in container networks do.
fn check_name(host: &str) -> Result<(), AddressFault> {
    if host.is_empty() {
        return Err(AddressFault::NoHost);
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(other) = host.chars().find(|c| !is_allowed(*c)) {
        return Err(AddressFault::Character(other));
    }
    // A dot at the end says that the name is complete.
    let name = host.strip_suffix('.').unwrap_or(host);
    let labels = || name.split('.');
    if name.len() > HOST_BYTES_MAX || labels().any(|label| !(1..=LABEL_BYTES_MAX).contains(&label.len())) {
        return Err(AddressFault::Length);
    }
    // Numbers and dots are read as an IPv4 address, in one of its unusual notations. A long number is a name: containers
    // are called so.
    let is_number = labels().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    let is_name = !host.contains('.') && host.len() > IPV4_NUMBER_BYTES_MAX;
    if is_number && !is_name && host.parse::<Ipv4Addr>().is_err() {
        return Err(AddressFault::NotIpv4(host.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_both_kinds_are_read_and_written_alike() {
        for (text, host, port) in [
            ("localhost:9092", "localhost", 9092),
            ("broker-1.example.org.:1", "broker-1.example.org.", 1),
            ("my_broker:65535", "my_broker", 65535),
            ("127.0.0.1:0", "127.0.0.1", 0),
            ("0.0.0.0:9092", "0.0.0.0", 9092),
            ("123456789012:9092", "123456789012", 9092),
            ("[::1]:9092", "::1", 9092),
            ("[::]:9092", "::", 9092),
            ("[fe80::1%eth0]:9092", "fe80::1%eth0", 9092),
            ("[::ffff:10.0.0.1]:09", "::ffff:10.0.0.1", 9),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.host(), address.port()), (host, port), "{text}");
            assert_eq!(Address::new(host, port).as_ref(), Ok(&address), "{text}");
            assert_eq!(address.to_string().parse(), Ok(address), "{text}");
        }
        assert_eq!(Address::new("::1", 9092).expect("good").to_string(), "[::1]:9092");
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let label = format!("{}:1", "x".repeat(64));
        let name = format!("{}:1", ["x".repeat(60).as_str(); 5].join("."));
        for (text, reason) in [
            ("PLAINTEXT://broker:9092", "leave out 'PLAINTEXT://'"),
            ("http://broker", "leave out 'http://'"),
            ("broker", "the port is missing"),
            ("broker:", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("[::1]9092", "the port is missing"),
            ("", "the port is missing"),
            (":9092", "the host is missing"),
            ("broker:port", "the port 'port'"),
            ("broker:65536", "from 0 to 65535"),
            ("broker:+1", "the port '+1'"),
            ("broker:-1", "the port '-1'"),
            ("broker: 1", "the port ' 1'"),
            ("::1:9092", "in brackets"),
            ("a:1:2", "in brackets"),
            ("[::1:9092", "not an IPv6 address"),
            ("[broker]:9092", "'broker' is not an IPv6 address"),
            ("[10.0.0.1]:9092", "not an IPv6 address"),
            ("[fe80::1%]:9092", "not an IPv6 address"),
            ("[fe80::1%a b]:9092", "not an IPv6 address"),
            ("bro ker:9092", "a host name has no ' '"),
            (" broker:9092", "a host name has no ' '"),
            ("broker/x:9092", "a host name has no '/'"),
            ("user@broker:9092", "a host name has no '@'"),
            ("bro\nker:9092", "a host name has no '\\n'"),
            ("a..b:1", "between two dots"),
            (".:1", "between two dots"),
            (&label, "between two dots"),
            (&name, "at most 253"),
            ("256.0.0.1:9092", "'256.0.0.1' is not an IPv4 address"),
            ("10.1:9092", "not an IPv4 address"),
            ("9092:9092", "not an IPv4 address"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("HOST:PORT"), "{text:?}: {error}");
            assert!(error.starts_with(&format!("'{}' is not", text.escape_debug())), "{error}");
        }
    }

    #[test]
    fn what_can_be_connected_to_has_a_port() {
        let error = Address::destination("broker:0").expect_err("no port").to_string();
        assert!(error.contains("port 0 cannot be connected to"), "{error}");
        assert!(Address::destination("0.0.0.0:9092").is_ok(), "a client takes it for its own machine");
    }

    #[test]
    fn what_is_advertised_means_the_same_everywhere() {
        for text in ["0.0.0.0:9092", "[::]:9092", "[::ffff:0.0.0.0]:9092"] {
            let error = Address::advertised(text).expect_err(text).to_string();
            assert!(error.contains("every address of this machine"), "{error}");
        }
        let error = Address::advertised("[fe80::1%eth0]:9092").expect_err("a zone").to_string();
        assert!(error.contains("'%eth0'"), "{error}");
        assert!(Address::advertised("broker:0").is_err());
        for text in ["broker:9092", "[::1]:9092", "10.0.0.1:9092"] {
            assert_eq!(Address::advertised(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn several_are_separated_by_commas() {
        let read = |text| Address::destinations(text).map(|all| all.iter().map(Address::to_string).collect());
        assert_eq!(read("a:1, [::1]:2,"), Ok(vec!["a:1".to_string(), "[::1]:2".to_string()]));
        for wrong in ["localhost", "a:1,b", "", ",", ":9092", "a:port", "a:1,b:0"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
