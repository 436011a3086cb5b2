//! DeleteTopics, key 20, versions 0 to 6.
//!
//! 1 adds the throttle time; 4 is flexible; 5 returns an error message; 6 takes topics by name or by id.

use std::collections::HashSet;

use millstream_model::TopicId;
use millstream_protocol::{
    Str, Uuid,
    messages::delete_topics::{
        DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
    },
};

use super::{
    context::RequestContext,
    error::{ErrorCode, refusal},
    timeout::wait_of,
};
use crate::service::{Change, TopicError};

/// Version from which topics are in `topics`, not in `topic_names`.
const BY_ID_FROM: i16 = 6;

/// Deletes topics, each independently.
pub(super) async fn delete_topics(
    ctx: &RequestContext,
    change: &Change,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let topics = match ctx.version {
        ..BY_ID_FROM => request.topic_names.into_iter().map(by_name).collect(),
        _ => request.topics,
    };
    let mut seen = HashSet::new();
    let mut responses = Vec::with_capacity(topics.len());
    for topic in topics {
        if let Some(reason) = malformed(&topic, &mut seen) {
            responses.push(answer(&topic, ErrorCode::INVALID_REQUEST.0, Some(Str::from(reason))));
            continue;
        }
        let wanted = topic.clone();
        let deleted = change.within(wait_of(request.timeout_ms), |change| delete(change, wanted));
        responses.push(match deleted.await {
            Some(result) => result,
            None => {
                let (code, message) = refusal(&TopicError::Timeout);
                answer(&topic, code, message)
            }
        });
    }
    DeleteTopicsResponse { responses, ..Default::default() }
}

fn by_name(name: Str) -> DeleteTopicState {
    DeleteTopicState { name: Some(name), topic_id: Uuid::default() }
}

fn malformed(topic: &DeleteTopicState, seen: &mut HashSet<(Option<Str>, [u8; 16])>) -> Option<&'static str> {
    match (&topic.name, topic.topic_id.0 == [0; 16]) {
        (Some(_), false) => Some("a topic is named by its name or by its id, not by both"),
        (None, true) => Some("a topic needs a name or an id"),
        _ if !seen.insert((topic.name.clone(), topic.topic_id.0)) => {
            Some("the request names the topic more than once")
        }
        _ => None,
    }
}

fn answer(topic: &DeleteTopicState, error_code: i16, error_message: Option<Str>) -> DeletableTopicResult {
    DeletableTopicResult { name: topic.name.clone(), topic_id: topic.topic_id, error_code, error_message }
}

async fn delete(change: Change, topic: DeleteTopicState) -> DeletableTopicResult {
    let view = match &topic.name {
        Some(name) => change.topic(name),
        None => change.topic_by_id(TopicId(topic.topic_id.0)),
    };
    let Some(view) = view else {
        let by_id = topic.name.is_none();
        let code = if by_id { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
        return answer(&topic, code.0, Some(Str::from("the topic does not exist")));
    };
    let deleted = DeleteTopicState { name: Some(Str::from(&view.name)), topic_id: Uuid(view.id.0) };
    match change.delete_topic(&view.name).await {
        Ok(()) => answer(&deleted, ErrorCode::NONE.0, None),
        Err(error) => {
            let (code, message) = refusal(&error);
            answer(&deleted, code, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_given_once_and_either_by_name_or_by_id() {
        let mut seen = HashSet::new();
        let id = Uuid([7; 16]);
        let by_id = DeleteTopicState { name: None, topic_id: id };
        assert_eq!(malformed(&by_name("a".into()), &mut seen), None);
        assert_eq!(malformed(&by_id, &mut seen), None);
        assert!(malformed(&by_name("a".into()), &mut seen).is_some_and(|why| why.contains("more than once")));
        assert!(malformed(&by_id, &mut seen).is_some_and(|why| why.contains("more than once")));
        let both = DeleteTopicState { name: Some("b".into()), topic_id: id };
        assert!(malformed(&both, &mut seen).is_some_and(|why| why.contains("both")));
        let neither = DeleteTopicState { name: None, topic_id: Uuid::default() };
        assert!(malformed(&neither, &mut seen).is_some_and(|why| why.contains("needs")));
    }
}
