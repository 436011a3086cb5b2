//! The table of APIs: what is in it is advertised, and every version that is advertised works.

use bytes::Bytes;
use millstream_protocol::{
    ApiKey, DecodeError, Message, Reader, Request, VersionRange, encode_response_frame,
    messages::{
        api_versions::ApiVersionsRequest, fetch::FetchRequest, metadata::MetadataRequest, produce::ProduceRequest,
    },
};

use super::{Answer, Reply, context::RequestContext, fetch, metadata, produce, versions};

/// Reads a request, does what must be done in the order of arrival, and gives the rest.
type Begin = fn(RequestContext, i32, Reader) -> Result<Answer, DecodeError>;

/// One API.
pub(super) struct Row {
    pub(super) key: ApiKey,
    /// Versions that are advertised and served.
    pub(super) versions: VersionRange,
    pub(super) begin: Begin,
}

/// A row whose handler is `async fn(&RequestContext, Request) -> Response`.
macro_rules! row {
    ($request:ty, $min:literal ..= $max:literal, $handler:path) => {
        Row {
            key: <$request as Request>::KEY,
            versions: VersionRange { min: $min, max: $max },
            begin: |context, correlation_id, reader| {
                let request = read::<$request>(reader, context.version)?;
                Ok(Answer::Later(Box::pin(async move {
                    let response = $handler(&context, request).await;
                    reply::<$request>(context.version, correlation_id, &response)
                })))
            },
        }
    };
}

/// A row whose handler is `fn(&RequestContext, Request) -> impl Future<Output = Option<Response>>`: what it does before
/// it returns happens in the order of arrival; `None` is no answer.
macro_rules! row_in_order {
    ($request:ty, $min:literal ..= $max:literal, $handler:path) => {
        Row {
            key: <$request as Request>::KEY,
            versions: VersionRange { min: $min, max: $max },
            begin: |context, correlation_id, reader| {
                let version = context.version;
                let request = read::<$request>(reader, version)?;
                let rest = $handler(&context, request);
                Ok(Answer::Later(Box::pin(async move {
                    match rest.await {
                        Ok(Some(response)) => reply::<$request>(version, correlation_id, &response),
                        Ok(None) => Reply::Nothing,
                        Err(reason) => Reply::Close(reason),
                    }
                })))
            },
        }
    };
}

/// Every API, sorted by key.
pub(super) static ROWS: &[Row] = &[
    // 0-2 are advertised because librdkafka before 2.11.1 turns compression off without them; they are refused.
    row_in_order!(ProduceRequest, 0..=11, produce::produce),
    row!(FetchRequest, 4..=12, fetch::fetch),
    row!(MetadataRequest, 0..=12, metadata::metadata),
    row!(ApiVersionsRequest, 0..=4, versions::api_versions),
];

/// The row of an API key.
pub(super) fn find(key: i16) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&key, |row| row.key as i16).ok().map(|at| &ROWS[at])
}

fn read<R: Request>(mut reader: Reader, version: i16) -> Result<R, DecodeError> {
    R::decode(&mut reader, version)
}

fn reply<R: Request>(version: i16, correlation_id: i32, response: &R::Response) -> Reply {
    match frame::<R>(version, correlation_id, response) {
        Ok(frame) => Reply::Frame(frame),
        // A value that the version has no room for is a fault of ours; the client must not wait for ever.
        Err(error) => Reply::Close(format!("the reply to {} cannot be written: {error}", R::KEY.name())),
    }
}

fn frame<R: Request>(
    version: i16,
    correlation_id: i32,
    response: &R::Response,
) -> Result<Vec<Bytes>, millstream_protocol::EncodeError>
where
    R::Response: Message,
{
    encode_response_frame(R::KEY, version, correlation_id, response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_found_by_their_key() {
        assert!(ROWS.windows(2).all(|pair| (pair[0].key as i16) < pair[1].key as i16));
        for row in ROWS {
            assert!(find(row.key as i16).is_some_and(|found| found.key == row.key));
        }
        assert!(find(-1).is_none() && find(i16::MAX).is_none());
    }
}
