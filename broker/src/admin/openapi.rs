//! The OpenAPI description, generated from the table of endpoints.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::endpoints::{self, Answer, Content, Endpoint};

/// The OpenAPI 3.1 document.
pub(super) fn description() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints::all() {
        let operation = operation(&endpoint, &mut generator);
        let path = paths.entry(endpoint.path).or_insert_with(|| path_item(endpoint.path));
        path[endpoint.method.to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Millstream",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Health, metrics and administration of a Millstream broker.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        // With the token or, if none is set, without.
        "security": [{}, { "token": [] }],
    })
}

fn path_item(path: &str) -> Value {
    match path.contains("{name}") {
        true => json!({
            "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
        }),
        false => json!({}),
    }
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut responses: Map<String, Value> = Map::new();
    for answer in endpoint.answers.iter().chain(&endpoint.common_answers()) {
        // An endpoint's own text for a status is more specific.
        responses.entry(answer.status.to_string()).or_insert_with(|| response(answer, generator));
    }
    let mut operation = json!({
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "responses": responses,
    });
    if let Some(shape) = &endpoint.takes {
        let schema = (shape.schema)(generator);
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn response(answer: &Answer, generator: &mut SchemaGenerator) -> Value {
    let mut response = json!({ "description": answer.when });
    let content = match &answer.content {
        Content::Nothing => return response,
        Content::Text(media) => (*media, json!({ "type": "string" })),
        Content::Json(shape) => ("application/json", (shape.schema)(generator).into()),
        Content::Document => ("application/json", json!({ "type": "object" })),
    };
    response["content"] = json!({ content.0: { "schema": content.1 } });
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_endpoint_is_described_once_and_every_reference_leads_somewhere() {
        let document = description();
        let mut ids = BTreeSet::new();
        for endpoint in endpoints::all() {
            let operation = &document["paths"][endpoint.path][endpoint.method.to_lowercase()];
            assert_eq!(operation["operationId"], endpoint.id, "{} {}", endpoint.method, endpoint.path);
            assert!(ids.insert(endpoint.id), "{} is there twice", endpoint.id);
            assert!(endpoint.answers.iter().any(|answer| answer.status < 300), "{}", endpoint.id);
        }
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
    }
}
