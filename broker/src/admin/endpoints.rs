//! Every path of the HTTP port with its methods, parameters and responses.

use std::{borrow::Cow, sync::Arc};

use axum::routing::{MethodRouter, delete, get, patch, post, put};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    Port,
    groups::{self, GroupJson, GroupsJson, ResetDoneJson, ResetJson},
    problem::ProblemJson,
    settings::{self, ConfigChangeJson, LogChangeJson, LogJson},
    topics::{self, NewTopicJson, TopicChangeJson},
    views::{ClusterJson, ConfigsJson, TopicJson, TopicsJson},
};

/// One method of one path.
pub(super) struct Endpoint {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The operation's name for generated clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) takes: Option<Shape>,
    /// Responses in the order of the documents.
    pub(super) answers: Vec<Answer>,
    pub(super) route: MethodRouter<Arc<Port>>,
}

/// The body of a response.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) when: &'static str,
    pub(super) content: Content,
}

pub(super) enum Content {
    Nothing,
    /// With its media type.
    Text(&'static str),
    Json(Shape),
    /// A JSON document with a schema of its own.
    Document,
}

/// The shape of a JSON value.
#[derive(Clone)]
pub(super) struct Shape {
    #[cfg_attr(not(test), expect(dead_code, reason = "only the documents name shapes"))]
    pub(super) name: Cow<'static, str>,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

fn shape<T: JsonSchema>() -> Shape {
    Shape { name: T::schema_name(), schema: |generator| generator.subschema_for::<T>() }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn text(status: u16, when: &'static str) -> Answer {
    Answer { status, when, content: Content::Text(PLAIN) }
}

fn json<T: JsonSchema>(status: u16, when: &'static str) -> Answer {
    Answer { status, when, content: Content::Json(shape::<T>()) }
}

fn nothing(when: &'static str) -> Answer {
    Answer { status: 204, when, content: Content::Nothing }
}

fn refused(status: u16, when: &'static str) -> Answer {
    json::<ProblemJson>(status, when)
}

impl Endpoint {
    fn new(
        method: &'static str,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        route: MethodRouter<Arc<Port>>,
    ) -> Endpoint {
        Endpoint { method, path, id, summary, takes: None, answers: Vec::new(), route }
    }

    fn takes<T: JsonSchema>(mut self) -> Endpoint {
        self.takes = Some(shape::<T>());
        self
    }

    fn answers(mut self, answer: Answer) -> Endpoint {
        self.answers.push(answer);
        self.answers.sort_by_key(|answer| answer.status);
        self
    }

    /// Whether the table has this path, with any method.
    pub(super) fn is_at(&self, path: &str) -> bool {
        let (own, asked): (Vec<_>, Vec<_>) =
            (self.path.split('/').collect(), path.trim_end_matches('/').split('/').collect());
        let pairs = own.iter().zip(&asked);
        own.len() == asked.len() && pairs.into_iter().all(|(own, asked)| own == asked || own.starts_with('{'))
    }

    /// The responses that all endpoints of a kind share.
    pub(super) fn common_answers(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        if self.path.starts_with("/v1/") {
            answers.push(refused(401, "the token is missing or wrong"));
            answers.push(refused(403, "the Host is unknown, or changes are not allowed"));
            answers.push(refused(503, "the broker is starting"));
        }
        if self.path.contains('{') {
            answers.push(refused(400, "the name is not UTF-8"));
        }
        if self.takes.is_some() {
            answers.push(refused(400, "the body is not JSON, or does not match the schema"));
            answers.push(refused(413, "the body is larger than 1 MiB"));
            answers.push(refused(415, "the body has no `content-type: application/json`"));
        }
        answers
    }
}

pub(super) fn all() -> Vec<Endpoint> {
    pages().into_iter().chain(about_cluster()).chain(about_topics()).chain(about_groups()).collect()
}

fn pages() -> Vec<Endpoint> {
    let metrics = Content::Text("text/plain; version=0.0.4; charset=utf-8");
    vec![
        Endpoint::new(
            "GET",
            "/health/live",
            "live",
            "Whether the process runs and its log can be written",
            get(super::live),
        )
        .answers(text(200, "the process is alive"))
        .answers(text(503, "it is not; the body has the reason")),
        Endpoint::new(
            "GET",
            "/health/ready",
            "ready",
            "Whether this node accepts and serves records: it has started, leads all its partitions, and has free disk space",
            get(super::ready),
        )
        .answers(text(200, "the node is ready; a second line warns if flushes fail"))
        .answers(text(503, "it is not; the body has the reason")),
        Endpoint::new(
            "GET",
            "/metrics",
            "metrics",
            "Counters, gauges and histograms in Prometheus' text format",
            get(super::metrics_page),
        )
        .answers(Answer { status: 200, when: "the metrics", content: metrics }),
        Endpoint::new("GET", "/v1/openapi.json", "openapi", "This description", get(super::description))
            .answers(Answer { status: 200, when: "the description", content: Content::Document }),
    ]
}

fn about_cluster() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "GET",
            "/v1/cluster",
            "cluster",
            "The cluster in the view of this node",
            get(super::cluster),
        )
        .answers(json::<ClusterJson>(200, "the cluster")),
        Endpoint::new(
            "GET",
            "/v1/cluster/config",
            "cluster_config",
            "All configuration keys of this broker",
            get(settings::configs),
        )
        .answers(json::<ConfigsJson>(200, "the keys")),
        Endpoint::new(
            "PATCH",
            "/v1/cluster/config",
            "change_cluster_config",
            "Change configuration keys at run time, all or none",
            patch(settings::change_configs),
        )
        .takes::<ConfigChangeJson>()
        .answers(json::<ConfigsJson>(200, "the keys after the change"))
        .answers(refused(400, "a key or value is not allowed"))
        .answers(refused(503, "the metadata group has no leader now")),
        Endpoint::new("GET", "/v1/log", "log", "The log filter of this broker", get(settings::log))
            .answers(json::<LogJson>(200, "the filter")),
        Endpoint::new(
            "PUT",
            "/v1/log",
            "change_log",
            "Change the log filter until the broker stops",
            put(settings::change_log),
        )
        .takes::<LogChangeJson>()
        .answers(json::<LogJson>(200, "the new filter"))
        .answers(refused(400, "the filter is invalid; the old one stays")),
    ]
}

fn about_topics() -> Vec<Endpoint> {
    vec![
        Endpoint::new("GET", "/v1/topics", "topics", "List all topics", get(topics::list)).answers(json::<
            TopicsJson,
        >(
            200,
            "the topics",
        )),
        Endpoint::new("POST", "/v1/topics", "create_topic", "Create a topic", post(topics::create))
            .takes::<NewTopicJson>()
            .answers(json::<TopicJson>(201, "the new topic"))
            .answers(nothing("the request is valid (`validate_only`)"))
            .answers(refused(400, "a name, number or key is not allowed"))
            .answers(refused(409, "the topic exists"))
            .answers(refused(503, "the topic cannot be created now")),
        Endpoint::new(
            "GET",
            "/v1/topics/{name}",
            "topic",
            "Describe a topic with its partitions and configuration",
            get(topics::show),
        )
        .answers(json::<TopicJson>(200, "the topic"))
        .answers(refused(404, "the topic does not exist")),
        Endpoint::new(
            "PATCH",
            "/v1/topics/{name}",
            "change_topic",
            "Add partitions to a topic, change its configuration, or both",
            patch(topics::change),
        )
        .takes::<TopicChangeJson>()
        .answers(json::<TopicJson>(200, "the topic after the change"))
        .answers(nothing("the request is valid (`validate_only`)"))
        .answers(refused(400, "a number or key is not allowed"))
        .answers(refused(404, "the topic does not exist"))
        .answers(refused(503, "the topic cannot be changed now")),
        Endpoint::new(
            "DELETE",
            "/v1/topics/{name}",
            "delete_topic",
            "Delete a topic with its records",
            delete(topics::remove),
        )
        .answers(nothing("deleted"))
        .answers(refused(404, "the topic does not exist"))
        .answers(refused(503, "it cannot be deleted now")),
    ]
}

fn about_groups() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "GET",
            "/v1/groups",
            "groups",
            "List the consumer groups that this node coordinates",
            get(groups::list),
        )
        .answers(json::<GroupsJson>(200, "the groups")),
        Endpoint::new(
            "GET",
            "/v1/groups/{name}",
            "group",
            "Describe a group with its members and its lag in records and seconds",
            get(groups::show),
        )
        .answers(json::<GroupJson>(200, "the group"))
        .answers(refused(404, "the group does not exist"))
        .answers(refused(503, "another node coordinates it, or no node does now")),
        Endpoint::new(
            "PUT",
            "/v1/groups/{name}/offsets",
            "reset_group",
            "Reset the offsets of a group without members in a topic; the group need not exist",
            put(groups::reset),
        )
        .takes::<ResetJson>()
        .answers(json::<ResetDoneJson>(200, "the new offsets"))
        .answers(refused(400, "the partition does not exist, or the position is invalid"))
        .answers(refused(404, "the topic does not exist"))
        .answers(refused(409, "the group has members"))
        .answers(refused(503, "the offsets cannot be reset now")),
        Endpoint::new(
            "DELETE",
            "/v1/groups/{name}",
            "delete_group",
            "Delete a group without members, with its offsets",
            delete(groups::remove),
        )
        .answers(nothing("deleted"))
        .answers(refused(404, "the group does not exist"))
        .answers(refused(409, "the group has members"))
        .answers(refused(503, "it cannot be deleted now")),
    ]
}
