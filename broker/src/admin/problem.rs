//! Refusals: a status, and one JSON object with the reason.

use std::borrow::Cow;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{BODY_BYTES_MAX, endpoints, shape};
use crate::service::{BrokerConfigError, FetchError, GroupError, TopicError};

/// A refusal of a request.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemJson {
    /// The error text, with what is allowed.
    pub(super) error: String,
}

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

    /// A topic was not created or changed.
    pub(super) fn of_topic(name: &str, error: &TopicError) -> Problem {
        let status = match error {
            TopicError::Unknown => return Problem::no_topic(name),
            TopicError::AlreadyExists(_) => StatusCode::CONFLICT,
            TopicError::InvalidName(_)
            | TopicError::InvalidPartitions(_)
            | TopicError::InvalidReplicationFactor(_)
            | TopicError::InvalidConfig(_)
            | TopicError::InvalidReplicaAssignment(_)
            | TopicError::Internal(_)
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
            // A commit without membership is refused like this while the group has members.
            GroupError::NotEmpty | GroupError::UnknownMember | GroupError::RebalanceInProgress => busy(),
            GroupError::InvalidGroupId | GroupError::TooLarge | GroupError::OutOfBytes => {
                Problem::new(StatusCode::BAD_REQUEST, error)
            }
            _ => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error),
        }
    }
}

impl From<BrokerConfigError> for Problem {
    fn from(error: BrokerConfigError) -> Problem {
        let status = match error {
            BrokerConfigError::Invalid(_)
            | BrokerConfigError::ReadOnly { .. }
            | BrokerConfigError::Fact { .. } => StatusCode::BAD_REQUEST,
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
        let mut response = (self.status, Json(ProblemJson { error: self.error })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + JsonSchema, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        check_media(request.headers())?;
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| unread(rejection.status()))?;
        parse(&bytes).map(Body)
    }
}

fn check_media(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = given.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let said = if given.is_empty() { "is not said".to_string() } else { format!("is '{given}'") };
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format_args!("the body's media type {said}; send it with the header content-type: application/json"),
    ))
}

fn unread(status: StatusCode) -> Problem {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(status, format_args!("the body is too large; allowed are {BODY_BYTES_MAX} bytes"))
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "the body ended before it was whole; send it again"),
    }
}

fn parse<T: DeserializeOwned + JsonSchema>(bytes: &[u8]) -> Result<T, Problem> {
    let refused = |error: String| {
        let error = format!("{error}; GET /v1/openapi.json describes what is taken");
        Problem { status: StatusCode::BAD_REQUEST, error }
    };
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| refused(format!("the body is not JSON, at line {} column {}", e.line(), e.column())))?;
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let schema = Value::from(generator.subschema_for::<T>());
    if let Some(misfit) = shape::misfit(&value, &schema, &generator.take_definitions(true)) {
        return Err(refused(misfit));
    }
    serde_json::from_value(value).map_err(|_| refused("the body is not as it is described".to_string()))
}

/// The name in a path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Name(name)),
            Err(_) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "the name in the path is not UTF-8; signs other than letters and digits are written as %XX",
            )),
        }
    }
}

/// The value of a configuration key: text, a number, or true or false.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct ConfigText(pub(super) String);

impl TryFrom<Value> for ConfigText {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<ConfigText, &'static str> {
        match value {
            Value::String(text) => Ok(ConfigText(text)),
            Value::Number(number) => Ok(ConfigText(number.to_string())),
            Value::Bool(flag) => Ok(ConfigText(flag.to_string())),
            _ => Err("a value is text, a number, or true or false"),
        }
    }
}

impl JsonSchema for ConfigText {
    fn schema_name() -> Cow<'static, str> {
        "ConfigValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The value of a configuration key: text, a number, or true or false.",
            "type": ["string", "number", "boolean"],
        })
    }
}

/// The path does not exist.
pub(super) async fn nowhere(request: Request) -> Problem {
    let path = request.uri().path();
    let error = format!("there is nothing at {path}; GET /v1/openapi.json describes what there is");
    Problem { status: StatusCode::NOT_FOUND, error }
}

/// The path exists, but not with this method.
pub(super) async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let all = endpoints::all();
    let takes: Vec<&str> =
        all.iter().filter(|endpoint| endpoint.is_at(path)).map(|endpoint| endpoint.method).collect();
    let error = format!("{path} does not take {method}; it takes {}", takes.join(", "));
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
