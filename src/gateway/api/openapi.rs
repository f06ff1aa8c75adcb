//! The description of all routes, for people and for generators of clients. The options of a job come from their own table.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::options::OPTIONS;

/// Everything but the options of a job.
const SKELETON: &str = include_str!("openapi.json");

/// The whole description.
pub(super) fn description() -> Bytes {
    let mut description: Value = parsed(SKELETON);
    description["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    let properties: Map<String, Value> = OPTIONS
        .iter()
        .map(|option| {
            let mut schema = parsed(option.schema);
            schema["examples"] = json!([parsed(option.example)]);
            (option.name.to_owned(), schema)
        })
        .collect();
    let durability = json!({"$ref": "#/components/schemas/Durability"});
    let schemas = &mut description["components"]["schemas"];
    schemas["Job"]["properties"] = Value::Object(properties.clone());
    schemas["OneJob"]["properties"] = Value::Object(properties);
    // How safely is a matter of the request, and not of one job in a list.
    for whole in ["OneJob", "Jobs"] {
        schemas[whole]["properties"]["durability"] = durability.clone();
    }
    description.to_string().into()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("a constant, which every test of the description reads")
}
