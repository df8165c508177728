//! The socket, as any HTTP client sees it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use weir::api::{
    client::{Client, ClientError},
    routes,
    server::{BindError, Server},
};

use crate::support::{Daemon, scene};

/// Status and body of a request written by hand, with no code of the client in it.
fn http(daemon: &Daemon, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let body = body.unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // An answer may come before a body that is too long has been read.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn json_of(daemon: &Daemon, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
    let (status, body) = http(daemon, method, path, body);
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: {status}: {body}")))
}

#[test]
fn reads_answer_with_the_controllers_values() {
    let daemon = Daemon::start();
    let (status, services) = json_of(&daemon, "GET", "/v1/services", None);
    assert_eq!((status, services), (200, serde_json::to_value(scene()).unwrap()));
    let (status, web) = json_of(&daemon, "GET", "/v1/services/web", None);
    assert_eq!((status, web), (200, serde_json::to_value(&scene()[0]).unwrap()));
    let (status, answer) = json_of(&daemon, "GET", "/v1/status", None);
    assert_eq!((status, &answer["pid"], &answer["interfaces"][0]["xdp"]), (200, &json!(4242), &json!("native")));
    let (status, answer) = json_of(&daemon, "GET", "/v1/stats", None);
    assert_eq!((status, &answer["reasons"][0]["packets"]), (200, &json!(12)));
}

#[test]
fn errors_have_their_status_and_a_json_body() {
    let daemon = Daemon::start();
    let web = r#"{"name":"web","vip":"192.0.2.1","port":80,"protocol":"tcp","mode":"l2"}"#;
    let cases = [
        ("GET", "/v1/nothing", None, 404, "there is no /v1/nothing; see /v1/openapi.json"),
        ("PATCH", "/v1/status", None, 405, "/v1/status can't be asked to PATCH"),
        ("GET", "/v1/services/mail", None, 404, "there is no service \"mail\""),
        ("DELETE", "/v1/services/mail", None, 404, "there is no service \"mail\""),
        ("POST", "/v1/services/web/backends/x/drain", None, 404, "there is no backend \"x\" in service \"web\""),
        ("POST", "/v1/services", Some(web), 409, "service \"web\" exists already"),
        (
            "PUT",
            "/v1/services/web/backends/10.0.0.7/weight",
            Some(r#"{"weight":1001}"#),
            422,
            "weight: expected 0 to 1000, found 1001",
        ),
        (
            "POST",
            "/v1/services/broken/backends/10.0.0.7/drain",
            None,
            500,
            "writing the slots: Cannot allocate memory (os error 12)",
        ),
    ];
    for (method, path, body, status, error) in cases {
        let answer = json_of(&daemon, method, path, body);
        let problems = if status == 422 { json!([error]) } else { json!([]) };
        assert_eq!(answer, (status, json!({ "error": error, "problems": problems })), "{method} {path}");
    }
    assert_eq!(daemon.calls(), Vec::<String>::new());
}

#[test]
fn bodies_that_are_not_what_is_wanted_are_refused() {
    let daemon = Daemon::start();
    let weight = "/v1/services/web/backends/10.0.0.7/weight";
    let cases = [
        (r#"{"weight":"#, 400, "EOF while parsing"),
        (r#"{"weight":"5"}"#, 422, "weight: invalid type: string \"5\", expected u16"),
        (r#"{"weight":70000}"#, 422, "expected u16"),
        (r#"{"weight":5,"wieght":6}"#, 422, "unknown field `wieght`"),
    ];
    for (body, status, error) in cases {
        let (found, answer) = json_of(&daemon, "PUT", weight, Some(body));
        let message = answer["error"].as_str().unwrap();
        assert!(found == status && message.contains(error), "{body}: {found} {message}");
    }
    let long = format!(r#"{{"weight":5{}}}"#, " ".repeat(2 << 20));
    let (status, answer) = json_of(&daemon, "PUT", weight, Some(&long));
    assert_eq!((status, &answer["problems"]), (413, &json!([])));
    assert_eq!(daemon.calls(), Vec::<String>::new());
}

#[test]
fn the_openapi_document_lists_every_route_and_every_route_is_served() {
    let daemon = Daemon::start();
    let (status, document) = json_of(&daemon, "GET", "/v1/openapi.json", None);
    assert_eq!(status, 200);
    assert_eq!(document, serde_json::to_value(routes::document()).unwrap());
    let mut found: Vec<String> = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            found.push(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            let concrete = path.replace("{service}", "web").replace("{backend}", "10.0.0.7");
            // What needs a body is refused for want of it, but as the route that it is.
            let (status, body) = http(&daemon, &method.to_uppercase(), &concrete, None);
            assert!(matches!(status, 200 | 400), "{method} {path}: {status} {body}");
        }
    }
    found.sort();
    let expected = [
        "DELETE /v1/services/{service}",
        "DELETE /v1/services/{service}/backends/{backend}",
        "GET /metrics",
        "GET /v1/explain",
        "GET /v1/openapi.json",
        "GET /v1/services",
        "GET /v1/services/{service}",
        "GET /v1/stats",
        "GET /v1/status",
        "POST /v1/detach",
        "POST /v1/services",
        "POST /v1/services/{service}/backends",
        "POST /v1/services/{service}/backends/{backend}/drain",
        "POST /v1/services/{service}/backends/{backend}/undrain",
        "POST /v1/upgrade",
        "PUT /v1/services/{service}/backends/{backend}/weight",
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_reference_of_the_openapi_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = serde_json::to_value(routes::document()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    // The two kinds of service must not have become one.
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(schemas["Service"]["properties"]["traffic"].is_object());
    assert!(schemas["NewService"]["properties"]["health"].is_object());
}

#[test]
fn draining_and_removing_may_say_how() {
    let daemon = Daemon::start();
    let backend = "/v1/services/web/backends/10.0.0.8";
    let drain = format!("{backend}/drain");
    let cases = [
        ("POST", drain.clone(), None, "10.0.0.8 of web drained"),
        ("POST", drain.clone(), Some("{}"), "10.0.0.8 of web drained"),
        ("POST", drain.clone(), Some(r#"{"deadline_ms":90000}"#), "10.0.0.8 of web drained within 90s"),
        ("POST", drain.clone(), Some(r#"{"deadline_ms":0}"#), "10.0.0.8 of web drained within 0ns"),
        ("DELETE", backend.to_owned(), None, "10.0.0.8 of web removed"),
        ("DELETE", format!("{backend}?now=false"), None, "10.0.0.8 of web removed"),
        ("DELETE", format!("{backend}?now=true"), None, "10.0.0.8 of web removed at once"),
    ];
    for (method, path, body, call) in &cases {
        let (status, change) = json_of(&daemon, method, path, *body);
        assert_eq!((status, &change["summary"]), (200, &json!(call)), "{method} {path} {body:?}");
    }
    assert_eq!(daemon.calls(), cases.map(|(_, _, _, call)| call));

    let refused = [
        ("POST", drain.clone(), Some(r#"{"deadline":90}"#), 422, "unknown field `deadline`"),
        ("POST", drain.clone(), Some(r#"{"deadline_ms":-1}"#), 422, "deadline_ms"),
        ("POST", drain, Some("soon"), 400, "expected value"),
        ("DELETE", format!("{backend}?now"), None, 400, "now"),
        ("DELETE", format!("{backend}?nwo=true"), None, 400, "unknown field `nwo`"),
    ];
    for (method, path, body, status, error) in refused {
        let (found, answer) = json_of(&daemon, method, &path, body);
        let message = answer["error"].as_str().unwrap();
        assert!(found == status && message.contains(error), "{method} {path} {body:?}: {found} {message}");
    }
    assert_eq!(daemon.calls().len(), 7);
}

#[test]
fn names_survive_the_way_to_the_controller() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon.socket);
    let change = daemon.block_on(client.drain("web", "ten/9 é", None)).unwrap();
    assert_eq!(change.summary, "ten/9 é of web drained");
    assert_eq!(daemon.calls(), ["ten/9 é of web drained"]);
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_daemon() {
    let mut daemon = Daemon::start();
    let mode = fs::metadata(&daemon.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    daemon.stop();
    assert!(!daemon.socket.exists());
}

#[test]
fn stopping_does_not_wait_for_a_client_that_says_nothing_more() {
    let mut daemon = Daemon::start();
    let mut stuck = UnixStream::connect(&daemon.socket).unwrap();
    stuck.write_all(b"PUT /v1/services/web/backends/a/weight HTTP/1.1\r\nHost: x\r\nContent-Len").unwrap();
    assert_eq!(http(&daemon, "GET", "/v1/status", None).0, 200);
    let start = Instant::now();
    daemon.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_socket_is_taken_over_only_if_nobody_answers() {
    let daemon = Daemon::start();
    let bind = |path: &std::path::Path| daemon.runtime.block_on(async { Server::bind(path) });

    let taken = bind(&daemon.socket).unwrap_err();
    assert!(matches!(taken, BindError::Taken(_)));
    assert_eq!(taken.to_string(), format!("another daemon answers at {}", daemon.socket.display()));
    assert_eq!(http(&daemon, "GET", "/v1/status", None).0, 200);

    let stale = daemon.directory().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(UnixStream::connect(&stale).is_err(), "nobody listens any more");
    let server = bind(&stale).unwrap();
    UnixStream::connect(&stale).unwrap();

    // One that somebody else has put there since is not ours to remove.
    fs::remove_file(&stale).unwrap();
    let other = UnixListener::bind(&stale).unwrap();
    drop(server);
    assert!(stale.exists());
    drop(other);

    let file = daemon.directory().join("file");
    fs::write(&file, "precious").unwrap();
    assert_eq!(bind(&file).unwrap_err().to_string(), format!("{} is there and is not a socket", file.display()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn the_client_gives_up_on_what_does_not_answer() {
    let daemon = Daemon::start();
    let socket = daemon.directory().join("mute.sock");
    let mute = UnixListener::bind(&socket).unwrap();
    let client = Client::new(&socket).with_timeout(Duration::from_millis(200));
    let error = daemon.block_on(client.status()).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(..)));
    assert_eq!(error.to_string(), format!("the daemon at {} has not answered within 0.2 s", socket.display()));
    drop(mute);
}

#[test]
fn the_client_tells_what_is_no_weir() {
    let daemon = Daemon::start();
    let socket = daemon.directory().join("other.sock");
    let other = UnixListener::bind(&socket).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    });
    let error = daemon.block_on(Client::new(&socket).status()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} does not answer like a Weir daemon", socket.display()));
    answering.join().unwrap();
}
