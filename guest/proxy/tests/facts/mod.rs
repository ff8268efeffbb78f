//! What a played worker says of itself when a proxy asks, without which it would get no request.

use axum::routing::get;
use axum::{Json, Router};

/// With the path at which a worker says that its model `echo` passed the self-test.
pub fn telling(routes: Router) -> Router {
    let facts = serde_json::json!({
        "models": [{
            "name": "echo", "root": "a".repeat(64), "kind": "embedding", "context": 512, "max_completion": 0,
            "self_test": { "digest": "7".repeat(64), "passed": true },
        }],
        "device": { "kind": "cpu", "name": "played", "memory_bytes": 1 },
        "hours": [0, 24],
        "slots": 4,
    });
    routes.route(protocol::market::path::WORKER, get(async move || Json(facts.clone())))
}
