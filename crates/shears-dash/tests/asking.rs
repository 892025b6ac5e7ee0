//! Requests without a server.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, header};
use tower::ServiceExt;

pub(crate) async fn send(app: &Router, method: Method, host: &str, path: &str) -> Response<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host);
    app.clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}
