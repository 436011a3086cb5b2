//! Every message in every version: random values come back, and bytes come back as themselves.

use millstream_protocol::testing::{CASES, Rng};

const ROUNDS: u64 = 40;

#[test]
fn random_messages_of_every_api_and_version_come_back() {
    let mut count = 0;
    for (index, case) in CASES.iter().enumerate() {
        for version in case.versions.min..=case.versions.max {
            for round in 0..ROUNDS {
                let mut rng = Rng::new((index as u64) << 32 | (version as u64) << 16 | round);
                let bytes = (case.round_trip)(&mut rng, version).unwrap_or_else(|error| {
                    panic!("{} version {version} round {round}: {error:?}", case.name)
                });
                let again = (case.recode)(bytes.clone(), version).unwrap_or_else(|error| {
                    panic!("{} version {version} round {round}: {error:?}", case.name)
                });
                assert_eq!(again, bytes, "{} version {version} round {round}", case.name);
                count += 1;
            }
        }
    }
    assert!(count > 10_000, "{count} messages");
}

#[test]
fn defaults_can_be_written_in_every_version() {
    for case in CASES {
        for version in case.versions.min..=case.versions.max {
            let bytes =
                (case.default)(version).unwrap_or_else(|error| panic!("{} {version}: {error}", case.name));
            (case.recode)(bytes, version)
                .unwrap_or_else(|error| panic!("{} {version}: {error:?}", case.name));
        }
    }
}
