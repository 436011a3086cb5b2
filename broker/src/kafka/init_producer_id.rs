//! InitProducerId, key 22, versions 0 to 4.
//!
//! 1 is as 0; 2 is flexible; 3 has the producer's current id and epoch; 4 may return PRODUCER_FENCED.
//!
//! Without a transactional id a producer cannot continue with its id: as in Kafka, every request gets a new id with
//! epoch 0.

use millstream_protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

use super::{context::RequestContext, error::ErrorCode};
use crate::service::Change;

/// Assigns a producer id and epoch.
pub(super) async fn init_producer_id(
    _ctx: &RequestContext,
    change: &Change,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    if let Err(code) = check(&request) {
        return refused(code);
    }
    match change.new_producer_id().await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(error) => refused(ErrorCode::from(&error)),
    }
}

fn check(request: &InitProducerIdRequest) -> Result<(), ErrorCode> {
    match request.transactional_id.as_deref() {
        None => {}
        Some("") => return Err(ErrorCode::INVALID_REQUEST),
        // Transactions are not supported. Of the codes that a producer takes as fatal, this one says so.
        Some(_) => return Err(ErrorCode::UNSUPPORTED_VERSION),
    }
    // Id and epoch: both or neither.
    match (request.producer_id, request.producer_epoch) {
        (-1, -1) => Ok(()),
        (-1, _) | (_, -1) => Err(ErrorCode::INVALID_REQUEST),
        _ => Ok(()),
    }
}

fn refused(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse { error_code: code.0, producer_epoch: -1, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(producer_id: i64, producer_epoch: i16) -> InitProducerIdRequest {
        InitProducerIdRequest { transactional_id: None, producer_id, producer_epoch, ..Default::default() }
    }

    #[test]
    fn a_request_has_both_id_and_epoch_or_neither() {
        assert_eq!(check(&request(-1, -1)), Ok(()));
        assert_eq!(check(&request(5, 0)), Ok(()));
        for (id, epoch) in [(5, -1), (-1, 3)] {
            assert_eq!(check(&request(id, epoch)), Err(ErrorCode::INVALID_REQUEST), "{id} {epoch}");
        }
    }

    #[test]
    fn transactional_ids_are_refused_with_a_fatal_error() {
        let with =
            |id: &'static str| InitProducerIdRequest { transactional_id: Some(id.into()), ..request(-1, -1) };
        assert_eq!(check(&with("t")), Err(ErrorCode::UNSUPPORTED_VERSION));
        assert_eq!(check(&with("")), Err(ErrorCode::INVALID_REQUEST));
    }
}
