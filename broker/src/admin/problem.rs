//! Why a request was refused: a status, and one JSON object that says why in words.

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::service::{BrokerConfigError, FetchError, GroupError, TopicError};

/// Why a request has no answer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemJson {
    /// In words, with what is allowed.
    pub(super) error: String,
}

/// A refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) error: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl std::fmt::Display) -> Problem {
        Problem { status, error: error.to_string() }
    }

    pub(super) fn no_topic(name: &str) -> Problem {
        let error = format!("topic '{name}' does not exist; GET /v1/topics lists those that do");
        Problem { status: StatusCode::NOT_FOUND, error }
    }

    pub(super) fn no_group(name: &str) -> Problem {
        let error = format!("group '{name}' does not exist; GET /v1/groups lists those that do");
        Problem { status: StatusCode::NOT_FOUND, error }
    }

    /// A topic was not made or changed.
    pub(super) fn of_topic(name: &str, error: &TopicError) -> Problem {
        let status = match error {
            TopicError::Unknown => return Problem::no_topic(name),
            TopicError::AlreadyExists(_) => StatusCode::CONFLICT,
            TopicError::InvalidName(_)
            | TopicError::InvalidPartitions(_)
            | TopicError::InvalidReplicationFactor(_)
            | TopicError::InvalidConfig(_)
            | TopicError::InvalidReplicaAssignment(_)
            | TopicError::TooMany(_) => StatusCode::BAD_REQUEST,
            TopicError::Unavailable(_) | TopicError::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, error)
    }

    /// A group was not found or changed.
    pub(super) fn of_group(name: &str, error: GroupError) -> Problem {
        let busy = || {
            let error = format!("group '{name}' has members: stop them first, then ask again");
            Problem { status: StatusCode::CONFLICT, error }
        };
        match error {
            GroupError::GroupNotFound => Problem::no_group(name),
            // Whoever commits from outside is no member, and is told so while there are some.
            GroupError::NotEmpty | GroupError::UnknownMember | GroupError::RebalanceInProgress => busy(),
            GroupError::InvalidGroupId | GroupError::TooLarge => Problem::new(StatusCode::BAD_REQUEST, error),
            _ => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error),
        }
    }
}

impl From<BrokerConfigError> for Problem {
    fn from(error: BrokerConfigError) -> Problem {
        let status = match error {
            BrokerConfigError::Invalid(_) | BrokerConfigError::ReadOnly { .. } => StatusCode::BAD_REQUEST,
            BrokerConfigError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, error)
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(ProblemJson { error: self.error })).into_response()
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Body(value)),
            Err(rejection) => Err(refused_body(&rejection)),
        }
    }
}

fn refused_body(rejection: &JsonRejection) -> Problem {
    let status = match rejection.status() {
        // What is JSON but not of the right shape is as wrong as what is no JSON.
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        other => other,
    };
    let hint = match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "; send it with the header content-type: application/json",
        _ => "; GET /v1/openapi.json describes what is taken",
    };
    Problem::new(status, format!("{}{hint}", rejection.body_text().trim_end_matches('.')))
}

/// No such path.
pub(super) async fn nowhere(request: Request) -> Problem {
    let path = request.uri().path();
    let error = format!("there is nothing at {path}; GET /v1/openapi.json describes what there is");
    Problem { status: StatusCode::NOT_FOUND, error }
}

/// The path is there, but not for this method.
pub(super) async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let error = format!("{path} does not take {method}; GET /v1/openapi.json describes what it takes");
    Problem { status: StatusCode::METHOD_NOT_ALLOWED, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_status_that_says_whose_turn_it_is() {
        let of = |error| Problem::of_topic("t", &error).status.as_u16();
        assert_eq!(
            [
                of(TopicError::Unknown),
                of(TopicError::AlreadyExists("t".into())),
                of(TopicError::InvalidConfig("x".into())),
                of(TopicError::Timeout)
            ],
            [404, 409, 400, 503]
        );
        let busy = Problem::of_group("g", GroupError::UnknownMember);
        assert!(busy.status == StatusCode::CONFLICT && busy.error.contains("stop them"), "{busy:?}");
        assert_eq!(Problem::of_group("g", GroupError::GroupNotFound).status, StatusCode::NOT_FOUND);
        assert_eq!(
            Problem::of_group("g", GroupError::NotCoordinator).status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
