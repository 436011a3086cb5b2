//! Every path of the HTTP port with its method, what it takes and what it answers.

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
    /// Names the operation for generated clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) takes: Option<Shape>,
    /// Statuses in the order in which the documents have them.
    pub(super) answers: Vec<Answer>,
    pub(super) route: MethodRouter<Arc<Port>>,
}

/// What comes with a status.
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
    /// A JSON document that others have defined.
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

    /// Whether a request for this path is for it, or for another method of its path.
    pub(super) fn is_at(&self, path: &str) -> bool {
        let (own, asked): (Vec<_>, Vec<_>) =
            (self.path.split('/').collect(), path.trim_end_matches('/').split('/').collect());
        let pairs = own.iter().zip(&asked);
        own.len() == asked.len() && pairs.into_iter().all(|(own, asked)| own == asked || own.starts_with('{'))
    }

    /// What every endpoint of its kind may answer beside its own.
    pub(super) fn common_answers(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        if self.path.starts_with("/v1/") {
            answers.push(refused(401, "there is a token, and the request does not have it"));
            answers.push(refused(403, "the request is for another host, or may change nothing"));
            answers.push(refused(503, "the broker is starting"));
        }
        if self.path.contains('{') {
            answers.push(refused(400, "the name is not UTF-8"));
        }
        if self.takes.is_some() {
            answers.push(refused(400, "the body is not JSON, or not as it is described"));
            answers.push(refused(413, "the body is larger than 1 MiB"));
            answers.push(refused(415, "the body has no `content-type: application/json`"));
        }
        answers
    }
}

/// All of them.
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
        .answers(text(200, "it can"))
        .answers(text(503, "it cannot; the reason in words")),
        Endpoint::new(
            "GET",
            "/health/ready",
            "ready",
            "Whether a producer can produce and a consumer consume on this node: it is open, leads everything that it should, and has room on its disk",
            get(super::ready),
        )
        .answers(text(200, "they can; a second line warns when what is in memory cannot be written to its files"))
        .answers(text(503, "they cannot; the reason in words")),
        Endpoint::new(
            "GET",
            "/metrics",
            "metrics",
            "Counters, gauges and histograms as Prometheus reads them",
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
            "The cluster as this node knows it",
            get(super::cluster),
        )
        .answers(json::<ClusterJson>(200, "the cluster")),
        Endpoint::new(
            "GET",
            "/v1/cluster/config",
            "cluster_config",
            "Every configuration key of this broker",
            get(settings::configs),
        )
        .answers(json::<ConfigsJson>(200, "the keys")),
        Endpoint::new(
            "PATCH",
            "/v1/cluster/config",
            "change_cluster_config",
            "Changes configuration keys while the brokers run, all or none",
            patch(settings::change_configs),
        )
        .takes::<ConfigChangeJson>()
        .answers(json::<ConfigsJson>(200, "every key as it is now"))
        .answers(refused(400, "a key or value is not allowed"))
        .answers(refused(503, "the metadata group has no leader now")),
        Endpoint::new("GET", "/v1/log", "log", "What this broker logs", get(settings::log)).answers(json::<
            LogJson,
        >(
            200,
            "the filter",
        )),
        Endpoint::new(
            "PUT",
            "/v1/log",
            "change_log",
            "Changes what this broker logs, until it ends",
            put(settings::change_log),
        )
        .takes::<LogChangeJson>()
        .answers(json::<LogJson>(200, "the new filter, which is in force"))
        .answers(refused(400, "not a filter; the old one stays")),
    ]
}

fn about_topics() -> Vec<Endpoint> {
    vec![
        Endpoint::new("GET", "/v1/topics", "topics", "Every topic, in few words", get(topics::list))
            .answers(json::<TopicsJson>(200, "the topics")),
        Endpoint::new("POST", "/v1/topics", "create_topic", "Makes a topic", post(topics::create))
            .takes::<NewTopicJson>()
            .answers(json::<TopicJson>(201, "the topic, which is there"))
            .answers(nothing("it could be made (`validate_only`)"))
            .answers(refused(400, "a name, number or key is not allowed"))
            .answers(refused(409, "the topic is there already"))
            .answers(refused(503, "it cannot be made now")),
        Endpoint::new(
            "GET",
            "/v1/topics/{name}",
            "topic",
            "One topic with its partitions and what is set on it",
            get(topics::show),
        )
        .answers(json::<TopicJson>(200, "the topic"))
        .answers(refused(404, "there is no such topic")),
        Endpoint::new(
            "PATCH",
            "/v1/topics/{name}",
            "change_topic",
            "Gives a topic more partitions, changes its configuration, or both",
            patch(topics::change),
        )
        .takes::<TopicChangeJson>()
        .answers(json::<TopicJson>(200, "the topic as it is now"))
        .answers(nothing("it could be changed (`validate_only`)"))
        .answers(refused(400, "a number or key is not allowed"))
        .answers(refused(404, "there is no such topic"))
        .answers(refused(503, "it cannot be changed now")),
        Endpoint::new(
            "DELETE",
            "/v1/topics/{name}",
            "delete_topic",
            "Removes a topic and its records",
            delete(topics::remove),
        )
        .answers(nothing("it is gone"))
        .answers(refused(404, "there is no such topic"))
        .answers(refused(503, "it cannot be removed now")),
    ]
}

fn about_groups() -> Vec<Endpoint> {
    vec![
        Endpoint::new(
            "GET",
            "/v1/groups",
            "groups",
            "Every consumer group that this node coordinates, in few words",
            get(groups::list),
        )
        .answers(json::<GroupsJson>(200, "the groups")),
        Endpoint::new(
            "GET",
            "/v1/groups/{name}",
            "group",
            "One group with its members and how far it is behind, in records and in seconds",
            get(groups::show),
        )
        .answers(json::<GroupJson>(200, "the group"))
        .answers(refused(404, "there is no such group"))
        .answers(refused(503, "another node coordinates it, or none now")),
        Endpoint::new(
            "PUT",
            "/v1/groups/{name}/offsets",
            "reset_group",
            "Moves a group that has no members to another place in a topic; the group need not exist yet",
            put(groups::reset),
        )
        .takes::<ResetJson>()
        .answers(json::<ResetDoneJson>(200, "where the group goes on"))
        .answers(refused(400, "there is no such partition, or the place is none"))
        .answers(refused(404, "there is no such topic"))
        .answers(refused(409, "the group has members"))
        .answers(refused(503, "it cannot be moved now")),
        Endpoint::new(
            "DELETE",
            "/v1/groups/{name}",
            "delete_group",
            "Removes a group that has no members, and what it has noted",
            delete(groups::remove),
        )
        .answers(nothing("it is gone"))
        .answers(refused(404, "there is no such group"))
        .answers(refused(409, "the group has members"))
        .answers(refused(503, "it cannot be removed now")),
    ]
}
