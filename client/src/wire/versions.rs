//! The versions that a broker and this client have in common.

use std::collections::HashMap;

use millstream_protocol::{Request, VersionRange, messages::api_versions::ApiVersionsResponse};

/// What one broker serves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions {
    ranges: HashMap<i16, VersionRange>,
}

impl Versions {
    /// What the broker says that it serves.
    pub(crate) fn of(response: &ApiVersionsResponse) -> Versions {
        let range = |min, max| VersionRange { min, max };
        let ranges =
            response.api_keys.iter().map(|api| (api.api_key, range(api.min_version, api.max_version)));
        Versions { ranges: ranges.collect() }
    }

    /// The highest version of a request that both know, at most `max`.
    pub(crate) fn highest<R: Request>(&self, max: i16) -> Option<i16> {
        let ours = VersionRange { min: R::STABLE_VERSIONS.min, max: R::STABLE_VERSIONS.max.min(max) };
        self.ranges.get(&(R::KEY as i16))?.highest_common(ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::messages::{
        api_versions::ApiVersion, fetch::FetchRequest, list_offsets::ListOffsetsRequest,
        produce::ProduceRequest,
    };

    #[test]
    fn the_highest_common_version_within_the_bound_is_taken() {
        let api = |api_key, min_version, max_version| ApiVersion { api_key, min_version, max_version };
        let api_keys = vec![api(0, 0, 11), api(1, 4, 99), api(2, 0, 0)];
        let versions = Versions::of(&ApiVersionsResponse { api_keys, ..Default::default() });
        assert_eq!(versions.highest::<ProduceRequest>(i16::MAX), Some(11));
        assert_eq!(versions.highest::<FetchRequest>(12), Some(12));
        assert_eq!(versions.highest::<ListOffsetsRequest>(i16::MAX), None);
    }
}
