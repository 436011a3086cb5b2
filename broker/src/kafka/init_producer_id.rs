//! InitProducerId, key 22, versions 0 to 4.
//!
//! 1 is as 0; 2 is flexible; 3 lets a producer that has an id ask for its next epoch; 4 says PRODUCER_FENCED where
//! older versions say INVALID_PRODUCER_EPOCH.

use millstream_protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

use super::{context::RequestContext, error::ErrorCode};

/// Gives a producer its id and epoch.
pub(super) async fn init_producer_id(
    ctx: &RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let current = match wanted(&request) {
        Ok(current) => current,
        Err(code) => return refused(code, ctx.version),
    };
    match ctx.service.init_producer_id(current).await {
        Ok((producer_id, producer_epoch)) => {
            InitProducerIdResponse { producer_id, producer_epoch, ..Default::default() }
        }
        Err(error) => refused(ErrorCode::from(&error), ctx.version),
    }
}

/// The id and epoch that the producer has, if any.
fn wanted(request: &InitProducerIdRequest) -> Result<Option<(i64, i16)>, ErrorCode> {
    match request.transactional_id.as_deref() {
        None => {}
        Some("") => return Err(ErrorCode::INVALID_REQUEST),
        // Transactions are not served. Of the codes that a producer takes as final, this one says so.
        Some(_) => return Err(ErrorCode::UNSUPPORTED_VERSION),
    }
    match (request.producer_id, request.producer_epoch) {
        (-1, -1) => Ok(None),
        (id @ 0.., epoch @ 0..) => Ok(Some((id, epoch))),
        _ => Err(ErrorCode::INVALID_REQUEST),
    }
}

fn refused(code: ErrorCode, version: i16) -> InitProducerIdResponse {
    let code = match code {
        ErrorCode::PRODUCER_FENCED if version < 4 => ErrorCode::INVALID_PRODUCER_EPOCH,
        code => code,
    };
    InitProducerIdResponse { error_code: code.0, producer_epoch: -1, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(producer_id: i64, producer_epoch: i16) -> InitProducerIdRequest {
        InitProducerIdRequest { transactional_id: None, producer_id, producer_epoch, ..Default::default() }
    }

    #[test]
    fn an_id_comes_with_an_epoch_or_neither_comes() {
        assert_eq!(wanted(&request(-1, -1)), Ok(None));
        assert_eq!(wanted(&request(5, 0)), Ok(Some((5, 0))));
        for (id, epoch) in [(5, -1), (-1, 3), (-2, -2)] {
            assert_eq!(wanted(&request(id, epoch)), Err(ErrorCode::INVALID_REQUEST), "{id} {epoch}");
        }
    }

    #[test]
    fn transactional_ids_are_refused_for_good() {
        let code = wanted(&InitProducerIdRequest { transactional_id: Some("t".into()), ..request(-1, -1) });
        assert_eq!(code, Err(ErrorCode::UNSUPPORTED_VERSION));
        let code = wanted(&InitProducerIdRequest { transactional_id: Some("".into()), ..request(-1, -1) });
        assert_eq!(code, Err(ErrorCode::INVALID_REQUEST));
    }

    #[test]
    fn a_fenced_producer_hears_it_in_its_versions_words() {
        assert_eq!(refused(ErrorCode::PRODUCER_FENCED, 3).error_code, ErrorCode::INVALID_PRODUCER_EPOCH.0);
        assert_eq!(refused(ErrorCode::PRODUCER_FENCED, 4).error_code, ErrorCode::PRODUCER_FENCED.0);
    }
}
