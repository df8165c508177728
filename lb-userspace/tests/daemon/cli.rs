//! The command line against a daemon: exact output, exit codes, wording of errors.

use std::{
    fs,
    io::{self, Write},
};

use clap::CommandFactory;
use serde_json::{Value, json};
use weir::cli::{Screen, args::Cli};

use crate::support::{Daemon, Ran, assert_failed, assert_out, file, scene, weir};

#[test]
fn the_arguments_are_well_defined() {
    Cli::command().debug_assert();
}

#[test]
fn status_tells_facts_interfaces_and_tables() {
    let daemon = Daemon::start();
    let expected = "\
weir      0.1.0, table layout 1
instance  main, pid 4242, up 3h 12m
config    /etc/weir/weir.toml
changed   5m ago: backend \"10.0.0.8\" of service \"web\" drained
services  2
backends  3: 1 up, 1 down, 1 draining
memory    90.2 MB in kernel tables, 56.6 MB of it in the flow tables

INTERFACE  INDEX  XDP           WHY
eth1           3  native        as configured
wan0          12  not attached  no such device

TABLE       USED   CAPACITY  SHARE   MEMORY
slots     65,558  4,194,304  1.6 %  33.6 MB
backends       4     16,384  0.0 %
";
    assert_out(&daemon.weir(&["status"]), expected);
}

#[test]
fn an_upgrade_is_told_and_shown() {
    let daemon = Daemon::start();
    let ran = daemon.weir(&["upgrade", "--binary", "/opt/weir-new"]);
    assert_out(&ran, "upgraded from 0.1.0 to 0.2.0 in 0.3 s; packets were forwarded all the time\n");
    let status = daemon.weir(&["status"]).out;
    assert!(status.contains("\nupgrade   1m ago: from 0.1.0 to 0.2.0 in 0.3 s\n"), "{status}");
    let ran = daemon.weir(&["upgrade", "--json", "--binary", "/opt/weir-new"]);
    let expected = json!({
        "at_unix_ms": 1_799_999_940_000_u64, "took_ms": 349, "from": "0.1.0", "to": "0.2.0", "binary": "/opt/weir-new",
        "failure": null
    });
    assert_eq!((ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()), (0, expected));
}

#[test]
fn an_upgrade_that_comes_to_nothing_fails() {
    let daemon = Daemon::start();
    let refused = daemon.weir(&["upgrade", "--binary", "/opt/weir-bad"]);
    let why = "weir: not upgraded, version 0.1.0 goes on: the preflight of /opt/weir-bad failed: out of luck";
    assert_failed(&refused, why);
    let gone = daemon.weir(&["upgrade", "--binary", "/opt/weir-gone"]);
    assert!(gone.code == 1 && gone.err.contains("another (pid 4242, version 0.1.0) was started"), "{gone:?}");
    let back = daemon.weir(&["upgrade", "--binary", "/opt/weir-back"]);
    let said = "not upgraded to 0.2.0: 0.1.0 goes on after 0.3 s, packets were forwarded all the time: interface eth9 \
                does not exist\n";
    assert_eq!((back.code, back.out.as_str()), (1, said));
    let status = daemon.weir(&["status"]).out;
    let row = "\nupgrade   1m ago: 0.1.0 came back from 0.2.0 (/opt/weir-back): interface eth9 does not exist\n";
    assert!(status.contains(row), "{status}");
}

#[test]
fn services_are_listed_with_aligned_numbers() {
    let daemon = Daemon::start();
    let expected = "\
SERVICE  VIP           PORT  PROTOCOL  MODE      UP  CONNECTIONS  PACKETS    BYTES
web      192.0.2.10     443  tcp       ipip  1 of 3        1,234   1.50 M  2.00 GB
dns      2001:db8::53   any  udp       nat   0 of 0            0        7    700 B
";
    assert_out(&daemon.weir(&["service", "list"]), expected);
}

#[test]
fn a_service_is_shown_with_its_backends() {
    let daemon = Daemon::start();
    let expected = "\
service       web
vip           192.0.2.10
port          443
protocol      tcp
mode          ipip
scheduler     least-connections
slots         65,537
idle          1d
settle_after  1m 30s 500ms
hold          10s
on_down       reset
slow_start    0s
health        checked
forwarded     1,234 connections, 1.50 M packets, 2.00 GB

BACKEND   ADDRESS   WEIGHT  STATE     SINCE   SLOTS    SHARE  FLOWS  NEXT HOP                REASON
10.0.0.7  10.0.0.7       1  up          45s  65,537  100.0 %     0+  02:00:00:00:00:01 eth1  connected in 0.3 ms
10.0.0.8  10.0.0.8       1  draining    45s       0    0.0 %   312+  02:00:00:00:00:02 eth1  drained by the operator
ten/9 é   10.0.0.9       1  down        45s       0    0.0 %      0  none: no route          connection refused
";
    assert_out(&daemon.weir(&["service", "show", "web"]), expected);
    let dns = daemon.weir(&["service", "show", "dns"]).out;
    let rows: Vec<Vec<&str>> = dns.lines().map(|line| line.splitn(2, "  ").map(str::trim).collect()).collect();
    let expected = [
        ["port", "any"],
        ["scheduler", "source"],
        ["hold", "forever"],
        ["on_down", "reroute"],
        ["slow_start", "30s"],
        ["health", "not checked"],
        ["replied", "6 packets, 5.40 kB"],
    ];
    for row in expected {
        assert!(rows.iter().any(|found| *found == row), "{row:?} is not in:\n{dns}");
    }
}

#[test]
fn backends_are_listed_by_service() {
    let daemon = Daemon::start();
    let expected = "\
SERVICE  BACKEND   ADDRESS   WEIGHT  STATE     SINCE   SLOTS    SHARE  FLOWS  NEXT HOP                REASON
web      10.0.0.7  10.0.0.7       1  up          45s  65,537  100.0 %     0+  02:00:00:00:00:01 eth1  connected in 0.3 ms
web      10.0.0.8  10.0.0.8       1  draining    45s       0    0.0 %   312+  02:00:00:00:00:02 eth1  drained by the operator
web      ten/9 é   10.0.0.9       1  down        45s       0    0.0 %      0  none: no route          connection refused
";
    assert_out(&daemon.weir(&["backend", "list"]), expected);
    assert_out(&daemon.weir(&["backend", "list", "web"]), expected);
    assert_eq!(daemon.weir(&["backend", "list", "dns"]).out.lines().count(), 1);
}

#[test]
fn stats_show_the_counters_and_the_reasons_that_occurred() {
    let daemon = Daemon::start();
    let expected = "\
SERVICE  BACKEND   STATE     CONNECTIONS  PACKETS    BYTES  REPLIES  REPLY BYTES
web                                1,234   1.50 M  2.00 GB        0          0 B
web      10.0.0.7  up              1,234   1.50 M  2.00 GB        0          0 B
web      10.0.0.8  draining            0        0      0 B        0          0 B
web      ten/9 é   down                0        0      0 B        0          0 B
dns                                    0        7    700 B        6      5.40 kB

REASON          PACKETS  MEANING
no-service           12  Passed: no service has this address, port and protocol.
forwarded-ipip   1.50 M  Forwarded to a backend in an IP-in-IP tunnel.

FLOW TABLE   TIMES  MEANING
looked-up   70,000  A packet's flow was looked up.
";
    assert_out(&daemon.weir(&["stats"]), expected);
}

#[test]
fn changes_say_what_they_did() {
    let daemon = Daemon::start();
    let moved = "21,845 of 65,537 slots moved (33.3 %); new flows go to 2 of 3 backends\n";
    let cases: [(&[&str], &str); 8] = [
        (&["backend", "add", "web", "10.0.0.9"], r#"{"address":"10.0.0.9","weight":1,"draining":false} added to web"#),
        (
            &["backend", "add", "web", "[2001:db8::9]:8443", "--name", "nine", "--weight", "5"],
            r#"{"name":"nine","address":"2001:db8::9","port":8443,"weight":5,"draining":false} added to web"#,
        ),
        (&["backend", "weight", "web", "10.0.0.7", "7"], "10.0.0.7 of web has weight 7"),
        (&["backend", "drain", "web", "ten/9 é"], "ten/9 é of web drained"),
        (&["backend", "drain", "web", "10.0.0.8", "--deadline", "1h30m"], "10.0.0.8 of web drained within 5400s"),
        (&["backend", "undrain", "web", "10.0.0.8"], "10.0.0.8 of web undrained"),
        (&["backend", "remove", "web", "10.0.0.8"], "10.0.0.8 of web removed"),
        (&["backend", "remove", "web", "10.0.0.8", "--now"], "10.0.0.8 of web removed at once"),
    ];
    for (args, summary) in cases {
        assert_out(&daemon.weir(args), &format!("{summary}\n{moved}"));
    }
    assert_eq!(daemon.calls(), cases.map(|(_, summary)| summary));
    assert_out(&daemon.weir(&["service", "remove", "web"]), "service \"web\" removed\n");
    assert_out(&daemon.weir(&["detach"]), "detached from eth1, wan0; the tables are removed\n");
}

#[test]
fn a_service_is_added_from_flags() {
    let daemon = Daemon::start();
    let args = "service add mail --vip 192.0.2.11 --port any --mode ipip --protocol udp --scheduler source --slots 1009 \
                --idle 2m --settle-after 5m --hold forever --on-down drop --slow-start 30s \
                --backend 10.0.0.7,weight=2 --backend [2001:db8::8]:25,name=eight --health-interval 500ms --health-fall 5";
    let ran = daemon.weir(&args.split_whitespace().collect::<Vec<_>>());
    let out = "service \"mail\" added\n0 of 1,009 slots moved (0.0 %); new flows go to 0 of 1 backend\n";
    let err = "weir: warning: no backend is up yet\n";
    assert_eq!(ran, Ran { code: 0, out: out.to_owned(), err: err.to_owned() });
    let expected = json!({
        "name": "mail", "vip": "192.0.2.11", "port": "any", "protocol": "udp", "mode": "ipip",
        "scheduler": "source", "slots": 1009, "idle": "2m", "settle_after": "5m", "hold": "forever", "on_down": "drop",
        "slow_start": "30s", "health": { "interval": "500ms", "rise": 2, "fall": 5, "jitter": 10 },
        "backend": [
            { "address": "10.0.0.7", "weight": 2, "draining": false },
            { "name": "eight", "address": "2001:db8::8", "port": 25, "weight": 1, "draining": false },
        ],
    });
    assert_eq!(serde_json::from_str::<Value>(&daemon.calls()[0]).unwrap(), expected);
}

#[test]
fn what_was_not_said_is_left_to_the_daemon() {
    let daemon = Daemon::start();
    let added = |more: &[&str]| {
        let args = ["service", "add", "mail", "--vip", "192.0.2.11", "--port", "25", "--mode", "l2"];
        assert_eq!(daemon.weir(&[&args, more].concat()).code, 0);
        serde_json::from_str::<Value>(daemon.calls().last().unwrap()).unwrap()
    };
    let mut expected = json!({
        "name": "mail", "vip": "192.0.2.11", "port": 25, "protocol": "tcp", "mode": "l2", "scheduler": "maglev",
    });
    assert_eq!(added(&[]), expected);
    expected["health"] = json!("none");
    assert_eq!(added(&["--no-health"]), expected);
}

#[test]
fn a_service_is_added_from_a_file() {
    let daemon = Daemon::start();
    let path = daemon.directory().join("mail.toml");
    let add = |text: &str| {
        fs::write(&path, text).unwrap();
        daemon.weir(&["service", "add", "--file", path.to_str().unwrap()])
    };
    let service = "[[service]]\nname = \"mail\"\nvip = \"192.0.2.11\"\nport = 25\nprotocol = \"tcp\"\nmode = \"l2\"\n";
    let backend = "[[service.backend]]\naddress = \"10.0.0.7\"\n";
    assert_eq!(add(&format!("{service}{backend}")).code, 0);
    let sent: Value = serde_json::from_str(&daemon.calls()[0]).unwrap();
    assert_eq!((&sent["port"], &sent["backend"][0]["address"]), (&json!(25), &json!("10.0.0.7")));

    let failed = |text: &str, message: &str| assert_failed(&add(text), &format!("weir: {}{message}", path.display()));
    failed(&format!("{service}{service}"), ": expected one [[service]], found 2");
    failed(
        &format!("{service}colour = 3\n"),
        ":7: unknown field `colour`, expected one of `name`, `vip`, `port`, \
         `protocol`, `mode`, `scheduler`, `slots`, `idle`, `settle_after`, `hold`, `on_down`, `slow_start`, `health`, \
         `backend`",
    );
    failed("[[service]", ":1: unclosed array table, expected `]`");
    fs::remove_file(&path).unwrap();
    let missing = daemon.weir(&["service", "add", "--file", path.to_str().unwrap()]);
    assert_failed(
        &missing,
        &format!("weir: {}: can't read it: No such file or directory (os error 2)", path.display()),
    );
    assert_eq!(daemon.calls().len(), 1);
}

#[test]
fn json_is_exact_and_what_the_api_said() {
    let daemon = Daemon::start();
    let json = |args: &[&str]| {
        let ran = daemon.weir(&[args, &["--json"]].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        serde_json::from_str::<Value>(&ran.out).unwrap()
    };
    let services = serde_json::to_value(scene()).unwrap();
    assert_eq!(json(&["service", "list"]), services);
    assert_eq!(json(&["service", "show", "dns"]), services[1]);
    assert_eq!(json(&["backend", "list"]), services);
    assert_eq!(json(&["backend", "list", "web"]), json!([services[0]]));
    assert_eq!(json(&["status"])["uptime_ms"], json!(11_520_000));
    let stats = json(&["stats"]);
    assert_eq!(stats["services"][0]["traffic"]["bytes"], json!(2_000_000_000));
    assert_eq!(stats["reasons"].as_array().unwrap().len(), 3, "reasons that never occurred are there too");
    let expected = json!({
        "summary": "10.0.0.7 of web drained", "slots_moved": 21_845, "slots": 65_537, "backends_taking": 2,
        "backends": 3, "warnings": [],
    });
    assert_eq!(json(&["backend", "drain", "web", "10.0.0.7"]), expected);
    assert_eq!(json(&["detach"]), json!({ "interfaces": ["eth1", "wan0"] }));
}

#[test]
fn failures_are_one_line_and_exit_with_1() {
    let daemon = Daemon::start();
    let cases: [(&[&str], &str); 6] = [
        (&["service", "show", "mail"], "weir: there is no service \"mail\""),
        (&["service", "remove", "mail", "--json"], "weir: there is no service \"mail\""),
        (&["backend", "drain", "web", "x"], "weir: there is no backend \"x\" in service \"web\""),
        (&["backend", "weight", "web", "10.0.0.7", "1001"], "weir: weight: expected 0 to 1000, found 1001"),
        (&["backend", "list", "broken"], "weir: writing the slots: Cannot allocate memory (os error 12)"),
        (
            &["service", "add", "web", "--vip", "192.0.2.1", "--port", "80", "--mode", "l2"],
            "weir: service \"web\" exists already",
        ),
    ];
    for (args, line) in cases {
        assert_failed(&daemon.weir(args), line);
    }
}

#[test]
fn without_a_daemon_every_client_command_says_so() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let message = format!("weir: no daemon answers at {}: is `weir run` running?", daemon.socket.display());
    let commands =
        ["status", "service list", "backend list", "stats", "stats --watch", "detach", "upgrade", "backend drain a b"];
    for command in commands {
        assert_failed(&daemon.weir(&command.split(' ').collect::<Vec<_>>()), &message);
    }
    let named = weir(&["--instance", "no-such-instance", "detach"]);
    assert_failed(&named, "weir: no daemon answers at /run/weir/no-such-instance.sock: is `weir run` running?");
}

#[test]
fn wrong_usage_exits_with_2() {
    let cases = [
        ("", "Usage: weir [OPTIONS] <COMMAND>"),
        ("frobnicate", "unrecognized subcommand 'frobnicate'"),
        ("service", "Usage: weir service [OPTIONS] <COMMAND>"),
        ("service add mail", "--vip <ADDRESS>"),
        ("service add mail --file x", "cannot be used with"),
        ("service add --file x --vip 192.0.2.1", "cannot be used with"),
        ("service add a --vip 192.0.2.1 --port 0 --mode l2", "expected 1 to 65535, or any"),
        ("service add a --vip 192.0.2.1 --port 1 --mode l3", "[possible values: l2, ipip, nat]"),
        ("service add a --vip 192.0.2.1 --port 1 --mode l2 --backend 10.0.0.1,wieght=2", "found \"wieght=2\""),
        ("service add a --vip 192.0.2.1 --port 1 --mode l2 --no-health --health-rise 2", "cannot be used with"),
        ("backend add web 10.0.0.300", "such as 10.0.0.7, 10.0.0.7:8080 or [2001:db8::7]:8080"),
        ("backend add web 10.0.0.3:0", "such as 10.0.0.7, 10.0.0.7:8080 or [2001:db8::7]:8080"),
        ("service add a --vip 192.0.2.1 --port 1 --mode l2 --scheduler flow", "possible values: maglev, source"),
        ("service add a --vip 192.0.2.1 --port 1 --mode l2 --on-down keep", "[possible values: reset, reroute, drop]"),
        ("service add --file x --hold 1s", "cannot be used with"),
        ("backend drain web a --deadline 10", "expected a duration such as 90s, 10m or 8h"),
        ("backend weight web a -1", "unexpected argument '-1'"),
        ("backend weight web a 70000", "70000 is not in 0..=65535"),
        ("stats --watch 0", "expected seconds, 0.1 to 86400"),
        ("stats --watch NaN", "expected seconds, 0.1 to 86400"),
        ("--instance ../x status", "a name has letters, digits"),
        ("decap --interface eth0", "--source <NET>"),
        ("decap --interface eth0 --source 10.77.0.1/16", "has host bits set; the network is 10.77.0.0/16"),
        ("run", "--config <FILE>"),
    ];
    for (line, message) in cases {
        let ran = weir(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}");
        assert!(ran.err.contains(message), "{line}: {}", ran.err);
    }
}

#[test]
fn help_and_version_are_no_failure() {
    let version = weir(&["--version"]);
    assert_out(&version, &format!("weir {}\n", env!("CARGO_PKG_VERSION")));
    assert_documented(&Cli::command(), &[]);
}

/// Asserts that every command below `command`, which is at `path`, has a help and says what it is for.
fn assert_documented(command: &clap::Command, path: &[&str]) {
    let help = weir(&[path, &["--help"]].concat());
    assert_eq!((help.code, help.err.as_str()), (0, ""), "{path:?}");
    assert!(help.out.contains("Usage: weir"), "{path:?}");
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        assert!(sub.get_about().is_some(), "{path:?} {}", sub.get_name());
        assert_documented(sub, &[path, &[sub.get_name()]].concat());
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = weir(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("undrain"), "{shell}");
    }
}

#[test]
fn check_sums_up_a_good_file_and_lists_what_is_wrong_with_a_bad_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weir.toml");
    let check = |text: &str, more: &[&str]| {
        fs::write(&path, text).unwrap();
        weir(&[&["check", path.to_str().unwrap()], more].concat())
    };
    let good = "[node]\ninterfaces = [\"eth0\"]\n\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10\"\nport = 443\n\
                protocol = \"tcp\"\nmode = \"l2\"\nslots = 1009\n\n[[service.backend]]\naddress = \"10.0.0.7\"\n\n\
                [[service.backend]]\naddress = \"10.0.0.8\"\n";
    let summary = format!("{}: ok: 1 service, 2 backends, 1009 of 4194304 slots\n", path.display());
    assert_out(&check(good, &[]), &summary);
    let json: Value = serde_json::from_str(&check(good, &["--json"]).out).unwrap();
    let expected = json!({ "file": path, "services": 1, "backends": 2, "slots": 1009, "slots_capacity": 4_194_304 });
    assert_eq!(json, expected);

    let bad = good.replace("443", "70000").replace("10.0.0.8", "10.0.0");
    let ran = check(&bad, &[]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.err);
    assert!(lines[0].starts_with(&format!("{}:7:8: service \"web\": port: ", path.display())), "{}", lines[0]);
    assert!(lines[1].starts_with(&format!("{}:16:11: service \"web\", backend ", path.display())), "{}", lines[1]);

    fs::remove_file(&path).unwrap();
    let ran = weir(&["check", path.to_str().unwrap()]);
    let missing = format!("{}: can't read it: No such file or directory (os error 2)\n", path.display());
    assert_eq!(ran, Ran { code: 1, out: String::new(), err: missing });
}

#[test]
fn doctor_prints_its_findings_and_they_decide_the_exit_code() {
    let ran = weir(&["doctor", "no-such-if0"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{}", ran.out);
    assert!(ran.out.contains("no-such-if0"), "{}", ran.out);
    let json: Value = serde_json::from_str(&weir(&["doctor", "no-such-if0", "--json"]).out).unwrap();
    assert!(json["findings"].as_array().is_some_and(|findings| !findings.is_empty()));
}

/// A reader that goes away after `writes` writes.
struct Reader {
    seen: Vec<String>,
    writes: usize,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.seen.len() == self.writes {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.seen.push(String::from_utf8(bytes.to_vec()).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `weir stats --watch` writes until its third frame, when its reader goes away.
fn watched(args: &[&str], screen: Screen) -> Vec<String> {
    let daemon = Daemon::start();
    let mut reader = Reader { seen: Vec::new(), writes: 2 };
    let ended = daemon.weir_into(&[&["stats", "--watch", "0.1"], args].concat(), &mut reader, screen);
    assert_eq!(ended, (0, String::new()), "a reader that goes away is no failure");
    reader.seen
}

#[test]
fn a_reader_that_goes_away_early_is_no_failure() {
    let daemon = Daemon::start();
    for args in [&["stats"][..], &["status", "--json"], &["completions", "bash"], &["--help"]] {
        let mut reader = Reader { seen: Vec::new(), writes: 0 };
        let (code, err) = daemon.weir_into(args, &mut reader, file());
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn watching_appends_totals_and_then_rates() {
    let frames = watched(&[], file());
    assert!(frames[0].starts_with("2027-01-15T08:00:00Z\nSERVICE  BACKEND   STATE     CONNECTIONS  PACKETS"));
    let expected = "\
2027-01-15T08:00:02Z
SERVICE  BACKEND   STATE     CONNECTIONS/s  PACKETS/s         RATE  REPLIES/s  REPLY RATE
web                                      0        500      0 bit/s          0     0 bit/s
web      10.0.0.7  up                    0        500  1.00 Mbit/s          0     0 bit/s
web      10.0.0.8  draining              0          0      0 bit/s          0     0 bit/s
web      ten/9 é   down                  0          0      0 bit/s          0     0 bit/s
dns                                      0          0      0 bit/s          0     0 bit/s

REASON          PACKETS/s  PACKETS  MEANING
no-service              0       12  Passed: no service has this address, port and protocol.
forwarded-ipip        500   1.50 M  Forwarded to a backend in an IP-in-IP tunnel.

FLOW TABLE  TIMES/s   TIMES  MEANING
looked-up       250  70,500  A packet's flow was looked up.

";
    assert!(frames[1] == expected, "expected:\n{expected}\nfound:\n{}", frames[1]);
}

#[test]
fn watching_redraws_a_terminal() {
    let frames = watched(&[], Screen { terminal: true, ..file() });
    assert!(frames.iter().all(|frame| frame.starts_with("\x1b[H\x1b[2J2027-")), "{frames:?}");
}

#[test]
fn watching_in_json_is_a_line_each_time() {
    let frames = watched(&["--json"], Screen { terminal: true, ..file() });
    for (frame, packets) in frames.iter().zip([1_500_000, 1_501_000]) {
        assert_eq!(frame.matches('\n').count(), 1);
        let stats: Value = serde_json::from_str(frame).unwrap();
        assert_eq!(stats["services"][0]["traffic"]["packets"], json!(packets));
    }
}

#[test]
fn colours_are_an_addition() {
    let daemon = Daemon::start();
    let show = |screen| {
        let mut out = Vec::new();
        assert_eq!(daemon.weir_into(&["backend", "list"], &mut out, screen), (0, String::new()));
        String::from_utf8(out).unwrap()
    };
    let (plain, coloured) = (show(file()), show(Screen { colour: true, ..file() }));
    for (state, colour) in [("up", "10"), ("draining", "11"), ("down", "9")] {
        assert!(coloured.contains(&format!("\x1b[38;5;{colour}m{state}")), "{coloured:?}");
    }
    assert!(!plain.contains('\x1b'));
    assert_eq!(strip(&coloured), plain);
}

/// `text` without its escape sequences `ESC [ … m`.
fn strip(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}
