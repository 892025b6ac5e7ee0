//! Refuses requests from elsewhere, and sets the headers of every response.

use std::net::{IpAddr, Ipv6Addr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

/// Scripts, styles and data come only from this server, and no other page may frame this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
/// The cookie that holds the token.
const COOKIE: &str = "shears-token";
/// The most bytes of a response with an `ETag`; larger ones are sent without.
const MOST_TAGGED: usize = 64 << 20;

/// The token that requests from other machines need, if they are allowed.
pub(crate) type Token = Option<Arc<str>>;

/// An unguessable token: 128 random bits as hexadecimal digits.
pub(crate) fn new_token() -> std::io::Result<Arc<str>> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digits.into())
}

/// Lets only reading requests of the page itself pass. A panic is an error of that request alone.
pub(crate) async fn guard(State(token): State<Token>, request: Request, next: Next) -> Response {
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let mut response = match refusal(&request, token.as_deref()) {
        Some(refusal) => refusal,
        None => {
            // What a panic leaves is behind locks, whose users expect one.
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            let failed = || StatusCode::INTERNAL_SERVER_ERROR.into_response();
            tagged(answer.unwrap_or_else(|_| failed()), known.as_ref()).await
        }
    };
    let headers = response.headers_mut();
    let own_policy = headers.contains_key(header::CONTENT_SECURITY_POLICY);
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The browser revalidates what it has cached on every request.
        (header::CACHE_CONTROL, "private, no-cache"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        if name != header::CONTENT_SECURITY_POLICY || !own_policy {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// The response to a refused request; `None` for one that may pass.
fn refusal(request: &Request, token: Option<&str>) -> Option<Response> {
    let headers = request.headers();
    let forbidden = |problem: &'static str| Some((StatusCode::FORBIDDEN, problem).into_response());
    let Some(host) = host(headers) else {
        return forbidden("the request does not name a host\n");
    };
    if token.is_none() && !is_local(&host) {
        return forbidden(
            "this page is served to this machine only: open it as 127.0.0.1 or localhost\n",
        );
    }
    if !is_of_the_page(headers, &host, request.uri().path()) {
        return forbidden("this page answers only itself, not other pages\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allowed = [(header::ALLOW, "GET, HEAD")];
        let problem = "this page only reads\n";
        return Some((StatusCode::METHOD_NOT_ALLOWED, allowed, problem).into_response());
    }
    match token {
        Some(token) if !has_cookie(headers, token) => Some(entrance(request, token)),
        _ => None,
    }
}

/// The one host that a request names.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    let host: Authority = host.to_str().ok()?.parse().ok()?;
    let plain = !host.as_str().contains('@') && !host.as_str().ends_with(':');
    plain.then_some(host)
}

/// Whether the request names this machine as its host. A page from elsewhere could make its own
/// name resolve to 127.0.0.1 and read everything this server returns, but its requests would still
/// carry that name (DNS rebinding).
fn is_local(host: &Authority) -> bool {
    let name = host.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => name.starts_with('[') && address == Ipv6Addr::LOCALHOST,
        Ok(IpAddr::V4(address)) => name == bare && address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let port = &host.as_str()[name.len()..];
    loopback && is_port(port.strip_prefix(':').unwrap_or(port))
}

/// Whether a request comes from the page itself, or from somebody opening it. Browsers say which
/// page a request comes from; programs such as curl do not.
fn is_of_the_page(headers: &HeaderMap, host: &Authority, path: &str) -> bool {
    let one = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let origin_is_ours = headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let name = ["http://", "https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        name.is_some_and(|name| name.eq_ignore_ascii_case(host.as_str()))
    });
    let opened = one("sec-fetch-mode") == Some(b"navigate")
        && one("sec-fetch-dest") == Some(b"document")
        && !path.starts_with("/api/");
    let site = one("sec-fetch-site");
    let site_is_ours = matches!(site, None | Some(b"same-origin" | b"none"));
    origin_is_ours && (site_is_ours || opened)
}

/// Compares in a time that does not depend on where the texts differ.
fn equal(left: &[u8], right: &[u8]) -> bool {
    let differing = left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b));
    left.len() == right.len() && differing == 0
}

fn has_cookie(headers: &HeaderMap, token: &str) -> bool {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'));
    pairs.any(|pair| match pair.trim().split_once('=') {
        Some((COOKIE, value)) => equal(value.as_bytes(), token.as_bytes()),
        _ => false,
    })
}

/// Moves the token of the printed address into a cookie, so that no link of the page contains it,
/// and refuses everybody without one.
fn entrance(request: &Request, token: &str) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let given = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="));
    if !given.is_some_and(|given| equal(given.as_bytes(), token.as_bytes())) {
        let problem =
            "open this page by the whole address that shears dash printed, token included\n";
        return (StatusCode::UNAUTHORIZED, problem).into_response();
    }
    let cookie = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict");
    let headers = [
        (header::SET_COOKIE, cookie),
        (header::LOCATION, "/".to_string()),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// Adds an `ETag` to a response, or drops its body if the browser already has it. Streams and
/// errors stay as they are.
async fn tagged(response: Response, known: Option<&HeaderValue>) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let streams = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let size = HttpBody::size_hint(response.body()).exact();
    let small = size.is_some_and(|size| size <= MOST_TAGGED as u64);
    if streams || !small || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, MOST_TAGGED).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let tag = format!("\"{:016x}\"", fnv(&bytes));
    let same = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, tag);
    }
    if same {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// FNV-1a with 64 bits (Fowler, Noll and Vo): fast, and the same in every build.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        let local = |text: &str| host(&of(&[("host", text)])).is_some_and(|host| is_local(&host));
        for host in [
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.2:80",
            "localhost:7878",
            "LocalHost",
            "[::1]:1",
            "[::1]",
        ] {
            assert!(local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "evil.example:127.0.0.1",
            "localhost:80:80",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "[::1]evil",
            "::1",
            "[127.0.0.1]",
        ] {
            assert!(!local(host), "{host}");
        }
        assert!(host(&HeaderMap::new()).is_none());
        assert!(host(&of(&[("host", "localhost"), ("host", "localhost")])).is_none());
    }

    #[test]
    fn only_the_page_itself_is_answered() {
        let host: Authority = "localhost:7878".parse().unwrap();
        let answered =
            |pairs: &[(&'static str, &str)], path| is_of_the_page(&of(pairs), &host, path);
        let site = "sec-fetch-site";
        for pairs in [
            &[][..],
            &[("origin", "http://localhost:7878")],
            &[(site, "same-origin")],
            &[(site, "none")],
        ] {
            assert!(answered(pairs, "/api/runs"), "{pairs:?}");
        }
        let opened = [
            (site, "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert!(answered(&opened, "/"), "a link from another page opens it");
        for pairs in [
            &[("origin", "http://localhost:7879")][..],
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[(site, "cross-site")],
            &[(site, "same-site")],
            &opened,
        ] {
            assert!(!answered(pairs, "/api/runs"), "{pairs:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_page_is_an_error_of_one_request() {
        let broken = async || -> &'static str { panic!("on purpose") };
        let page = Router::new()
            .route("/broken", get(broken))
            .route("/whole", get(async || "whole"))
            .layer(from_fn_with_state(Token::None, guard));
        for (path, status) in [("/broken", 500), ("/whole", 200), ("/broken", 500)] {
            let request = Request::builder().uri(path).header("host", "localhost");
            let request = request.body(Body::empty()).unwrap();
            let response = page.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{path}");
            assert!(response.headers().contains_key("content-security-policy"));
        }
    }

    #[test]
    fn tokens_are_long_and_compared_whole() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert!(one.len() == 32 && one != other);
        let has = |cookie: &str| has_cookie(&of(&[("cookie", cookie)]), &one);
        assert!(has(&format!("a=b; {COOKIE}={one}")));
        assert!(!has(&format!("{COOKIE}={other}")));
        assert!(!has(&format!("{COOKIE}={}", &one[..31])));
        assert!(!has(&format!("{COOKIE}=")));
    }
}
