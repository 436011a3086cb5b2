//! Settings of every part of the client.

use std::time::Duration;

use millstream_protocol::{Address, AddressError};

/// How brokers are reached.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `HOST:PORT` of brokers to begin with; all others are learned from these. Default: `127.0.0.1:9092`.
    pub bootstrap: Vec<String>,
    /// What the client calls itself. Default: `millstream`.
    pub client_id: String,
    /// How long a connection may take to be made. Default: 10 s.
    pub connect_timeout: Duration,
    /// How long an answer may take, besides what the broker is asked to wait. Default: 30 s.
    pub request_timeout: Duration,
    /// Age at which what is known of topics is asked for again: new partitions, and new topics that match a pattern, are found
    /// after so long. Default: 5 min.
    pub metadata_age_max: Duration,
    /// Wait after the first failure; it doubles with each further one. Default: 50 ms.
    pub retry_first: Duration,
    /// Longest wait between two tries. Default: 1 s.
    pub retry_longest: Duration,
    /// Bytes of the largest answer that is taken; a larger one ends its connection. Default: 100 MiB.
    pub response_bytes_max: usize,
}

impl ClientConfig {
    /// A client of the brokers at these addresses, separated by commas.
    pub fn new(bootstrap: &str) -> ClientConfig {
        let addresses = bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty());
        ClientConfig { bootstrap: addresses.map(String::from).collect(), ..ClientConfig::default() }
    }

    /// Every address is one, also those that would be tried only if the others fail.
    pub(crate) fn check_bootstrap(&self) -> Result<(), AddressError> {
        self.bootstrap.iter().try_for_each(|address| Address::destination(address).map(drop))
    }
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            bootstrap: vec!["127.0.0.1:9092".to_string()],
            client_id: "millstream".to_string(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            metadata_age_max: Duration::from_secs(300),
            retry_first: Duration::from_millis(50),
            retry_longest: Duration::from_secs(1),
            response_bytes_max: 100 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_separated_by_commas() {
        assert_eq!(ClientConfig::new("a:1, b:2,").bootstrap, ["a:1", "b:2"]);
    }

    #[test]
    fn every_address_is_checked() {
        assert_eq!(ClientConfig::new("a:1, [::1]:2,").check_bootstrap(), Ok(()));
        for wrong in ["a:1,b", "a:0", "PLAINTEXT://a:1", "a b:1", "::1:9092"] {
            assert!(ClientConfig::new(wrong).check_bootstrap().is_err(), "{wrong}");
        }
    }
}
