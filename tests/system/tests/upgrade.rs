//! `weir upgrade`: the daemon becomes another binary while traffic flows, and goes on as it was if that can't be.

use std::{
    fs::{self, File, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, Map, MapData},
    programs::links::{FdLink, PinnedLink},
};
use serde_json::Value;
use weir_lab::{
    Family, Lab, Mode, TCP_LINE_PORT, WeirDaemon,
    client::{curl, steady::Story},
};
use weir_system::{Lines, lab, load, nothing_fails, pins, services, weir_binary};

/// Time in which every backend is asked many times.
const WHILE: Duration = Duration::from_millis(800);
/// How long a preflight may take, and how long a new daemon until it is ready; with what comes around it.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(45);
/// The lab's first IPv4 VIP.
const URL: &str = "http://10.9.0.1/";

#[test]
fn nobody_notices_an_upgrade() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let lab = builder.clients(2).backends(4).mode(mode).build()?;
        // What a stop would do is none of an upgrade's business.
        let weir = lab.weir(&lab.config_with("on_exit = \"detach\"", &services(&lab)))?;
        upgraded_under_load(&lab, &weir).with_context(|| format!("{mode:?}\n{}", weir.log()))?;
    }
    Ok(())
}

fn upgraded_under_load(lab: &Lab, weir: &WeirDaemon) -> Result<()> {
    let new = lab.dir().join("weir-new");
    fs::copy(weir_binary()?, &new)?;
    weir.cli(&["backend", "drain", "web", "b1"])?;
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut lines = Lines::connect(lab.client(), SocketAddr::new(Family::V4.vip(1), TCP_LINE_PORT))?;
        connections.push((lines.ask("before")?, lines));
    }
    let load = Family::BOTH.map(|family| load(lab, family));
    let (before, pid) = (Attached::read(lab)?, pid(weir)?);
    ensure!(weir.json(&["status"])?["last_upgrade"].is_null());
    sleep(WHILE);
    let path = new.to_str().context("path")?;
    let said = weir.cli(&["upgrade", "--binary", path])?;
    ensure!(said.starts_with("upgraded from ") && said.lines().count() == 1, "{said}");
    let after = Attached::read(lab)?;
    ensure!(after.program != before.program, "the old program goes on: {before:?}");
    ensure!((&after.links, &after.maps) == (&before.links, &before.maps), "{before:?}, {after:?}");
    let status = weir.json(&["status"])?;
    ensure!(crate::pid(weir)? == pid && executable(&pid)? == new, "{status}");
    let last = &status["last_upgrade"];
    ensure!(last["binary"] == path && last["failure"].is_null() && last["took_ms"].as_u64() < Some(20_000), "{last}");
    ensure!(weir.cli(&["status"])?.contains(" ago: from "));
    ensure!(weir.backend("web", "b1")?["state"] == "draining");

    // And again, from that one to itself; what the first upgrade opened is closed.
    let open = held_files(&pid)?;
    let ended: Value = weir.json(&["upgrade", "--binary", path])?;
    ensure!(ended["failure"].is_null(), "{ended}");
    let left = held_files(&pid)?;
    ensure!(left <= open, "files are left open: {left} where there were {open}");
    sleep(WHILE);
    for load in load {
        all_succeed(&load.finish()?)?;
    }
    for (backend, lines) in &mut connections {
        let answer = lines.ask("after")?;
        ensure!(answer == *backend, "a connection to {backend} went to {answer}");
    }
    ensure!(weir.log().matches("self-test passed").count() == 2, "{}", weir.log());
    Ok(())
}

/// What is attached and pinned, by the kernel's ids.
#[derive(Debug, PartialEq, Eq)]
struct Attached {
    program: Vec<u32>,
    links: Vec<u32>,
    maps: Vec<(PathBuf, u32)>,
}

impl Attached {
    fn read(lab: &Lab) -> Result<Self> {
        let (mut program, mut links, mut maps) = (Vec::new(), Vec::new(), Vec::new());
        for pin in entries(&pins(lab).join("links"))? {
            let info = FdLink::from(PinnedLink::from_pin(&pin)?).info()?;
            links.push(info.id());
            program.push(info.program_id());
        }
        for pin in entries(&pins(lab).join("maps"))? {
            let id = MapData::from_pin(&pin)?.info()?.id();
            maps.push((pin, id));
        }
        ensure!(!links.is_empty() && !maps.is_empty());
        Ok(Self { program, links, maps })
    }
}

#[test]
fn a_binary_that_fails_its_preflight_changes_nothing() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let weir = lab.weir(&config)?;
    let load = load(&lab, Family::V4);
    let before = (Attached::read(&lab)?, executable(&pid(&weir)?)?);
    let weir_bin = weir_binary()?;
    let whole = fs::read(&weir_bin)?;
    let file = |name: &str, contents: &[u8], mode| file(&lab, name, contents, mode);
    let cases = [
        (lab.dir().join("missing"), "No such file"),
        (file("plain", b"text", 0o644)?, "not an executable file"),
        (file("writable", b"#!/bin/sh\nexit 0\n", 0o777)?, "others than root"),
        (PathBuf::from("/bin/true"), "does not answer as weir does"),
        (file("endless", b"#!/bin/sh\nexec yes\n", 0o755)?, "signal: 13"),
        (file("cut", &whole[..whole.len() / 8], 0o755)?, "failed"),
        (file("empty", b"", 0o755)?, "can't be executed"),
        (file("fails", b"#!/bin/sh\necho weir: out of luck >&2\nexit 1\n", 0o755)?, "failed: out of luck"),
    ];
    for (binary, why) in cases {
        let said = refusal(&weir, &binary)?;
        ensure!(said.contains(why), "{}: {said}", binary.display());
    }

    let copy = file("weir-new", &whole, 0o755)?;
    for (from, to, why) in [("mode", "mood", "mood"), (r#"["eth0"]"#, r#"["eth0", "eth9"]"#, "interface eth9")] {
        fs::write(weir.config(), config.replacen(from, to, 1))?;
        let said = refusal(&weir, &copy)?;
        ensure!(said.contains(why), "{said}");
    }
    fs::write(weir.config(), &config)?;
    ensure!((Attached::read(&lab)?, executable(&pid(&weir)?)?) == before, "it is another one");
    pretend_layout(&lab, 99)?;
    let said = refusal(&weir, &copy)?;
    ensure!(said.contains("newer table layout 99"), "{said}");

    // Refusals are quick; the load is to last for long enough.
    sleep(3 * WHILE);
    all_succeed(&load.finish()?)?;
    ensure!(weir.json(&["status"])?["last_upgrade"].is_null());
    weir.cli(&["backend", "drain", "web", "b1"])?;
    ensure!(curl::spread(lab.client(), URL, 40)?.keys().eq(["b2"]), "the daemon has no say any more");
    Ok(())
}

#[test]
fn a_preflight_that_hangs_is_given_up() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let weir = lab.weir(&lab.config(&[lab.service("web", Family::V4)]))?;
    let binary = file(&lab, "hangs", b"#!/bin/sh\nsleep 7654321 &\nsleep 7654322\n", 0o755)?;
    let began = Instant::now();
    let said = std::thread::scope(|scope| -> Result<String> {
        let first = scope.spawn(|| refusal(&weir, &binary));
        sleep(WHILE);
        let second = refusal(&weir, &binary)?;
        ensure!(second.contains("an upgrade is under way"), "{second}");
        first.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })?;
    ensure!(said.contains("not over within 30 s") && began.elapsed() < GIVEN_UP_WITHIN, "{said}");
    for process in entries(Path::new("/proc"))? {
        let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        ensure!(!line.contains("765432"), "{line} still runs");
    }
    Ok(())
}

/// Scripts that pass the preflight as weir does, make trouble, and then are weir.
#[test]
fn a_daemon_that_can_not_take_over_gives_way_to_the_old_one() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let config = lab.config(&services(&lab));
    let weir = lab.weir(&config)?;
    weir.cli(&["backend", "drain", "web", "b1"])?;
    let pid = pid(&weir)?;
    // Of the service whose slots stay.
    let load = load(&lab, Family::V6);
    // The old binary's file is gone by the time it is needed.
    let old = lab.dir().join("weir-old");
    fs::copy(weir_binary()?, &old)?;
    weir.cli(&["upgrade", "--binary", old.to_str().context("path")?])?;
    fs::remove_file(&old)?;
    fs::write(&old, "something else")?;

    let file = weir.config();
    let file = file.display();
    let faults = [
        ("config", format!("rm {file}"), "can't read it"),
        ("mistake", format!("sed -i s/mode/mood/ {file}"), "mood"),
        ("interface", format!("sed -i s/eth0/eth9/ {file}"), "interface eth9 does not exist"),
        ("seed", format!("sed -i '/^.node.$/a seed = \"00112233445566778899aabbccddeeff\"' {file}"), "node.seed"),
        ("metrics", format!("sed -i '/^.node.$/a metrics = \"192.0.2.77:1\"' {file}"), "192.0.2.77"),
        ("stuck", format!("rm {file}; mkfifo {file}"), "not ready within 30 s"),
    ];
    for (name, trouble, why) in faults {
        let began = Instant::now();
        let last = returns(&weir, &script(&lab, name, "", &trouble)?).with_context(|| name.to_owned())?;
        ensure!(last["failure"].as_str().is_some_and(|failure| failure.contains(why)), "{name}: {last}");
        ensure!(began.elapsed() < GIVEN_UP_WITHIN, "it took {:?}", began.elapsed());
        goes_on(&lab, &weir, &pid).with_context(|| name.to_owned())?;
        fs::remove_file(weir.config()).or_else(ignore_missing)?;
        fs::write(weir.config(), &config)?;
    }
    let gone = script(&lab, "gone", "rm \"$0\"", "")?;
    let last = returns(&weir, &gone)?;
    ensure!(last["failure"].as_str().is_some_and(|failure| failure.contains("can't be executed")), "{last}");
    goes_on(&lab, &weir, &pid)?;
    all_succeed(&load.finish()?)?;
    Ok(())
}

/// Upgrades `weir` to `binary`, which must end where it began: what the status says of it.
fn returns(weir: &WeirDaemon, binary: &Path) -> Result<Value> {
    let output = upgrade(weir, binary)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1) && said.contains("goes on"), "{output:?}\n{}", weir.log());
    let status = weir.json(&["status"])?;
    ensure!(weir.cli(&["status"])?.contains("came back from"));
    Ok(status["last_upgrade"].clone())
}

/// The same process, with the binary from before, its runtime changes and its hold on the packet path.
fn goes_on(lab: &Lab, weir: &WeirDaemon, pid: &str) -> Result<()> {
    ensure!(crate::pid(weir)? == pid, "another process");
    let executable = executable(pid)?;
    ensure!(executable.to_string_lossy().ends_with("weir-old (deleted)"), "{}", executable.display());
    ensure!(fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == "weir");
    ensure!(weir.backend("web", "b1")?["state"] == "draining");
    ensure!(weir.log().contains("goes on: "), "{}", weir.log());
    ensure!(curl::spread(lab.client(), URL, 20)?.keys().eq(["b2"]));
    weir.cli(&["backend", "undrain", "web", "b1"])?;
    ensure!(curl::spread(lab.client(), URL, 60)?.len() == 2, "the daemon has no say any more");
    weir.cli(&["backend", "drain", "web", "b1"])?;
    Ok(())
}

#[test]
fn tables_of_another_layout_are_refused_and_can_be_removed() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let mut weir = lab.weir(&config)?;
    weir.kill9()?;
    let run = || {
        let mut command = lab.balancer().command("timeout");
        command.args(["--kill-after=1", "10"]).arg(weir_binary()?).args(["run", "--config"]).arg(weir.config());
        anyhow::Ok(command.output()?)
    };
    for (version, age) in [(99, "newer"), (1, "older")] {
        pretend_layout(&lab, version)?;
        let refused = run()?;
        let said = String::from_utf8_lossy(&refused.stderr);
        let why = format!("{age} table layout {version}");
        ensure!(refused.status.code() == Some(1) && said.contains(&why), "{refused:?}");
        ensure!(curl::spread(lab.client(), URL, 60)?.len() == 2, "the packet path is not as it was");
    }

    // What another layout may have besides: other names, other directories.
    let links = pins(&lab).join("links");
    for link in entries(&links)? {
        fs::rename(&link, links.join("another-name"))?;
    }
    fs::create_dir_all(pins(&lab).join("programs/more"))?;
    MapData::from_pin(pins(&lab).join("maps/SLOTS"))?.pin(pins(&lab).join("programs/more/OTHER"))?;
    let detached = lab.balancer().command(weir_binary()?).args(["detach", "--instance", lab.id()]).output()?;
    ensure!(detached.status.success(), "{detached:?}");
    ensure!(!pins(&lab).exists(), "pins are left");
    let shown = lab.balancer().command("ip").args(["link", "show", "dev", "eth0"]).output()?;
    ensure!(!String::from_utf8_lossy(&shown.stdout).contains("xdp"), "{shown:?}");
    weir.restart()?;
    ensure!(curl::spread(lab.client(), URL, 60)?.len() == 2);
    Ok(())
}

/// Puts the settings of a table layout with another version and another size in place of those that are pinned.
fn pretend_layout(lab: &Lab, version: u32) -> Result<()> {
    let maps = pins(lab).join("maps");
    // An array whose element 0 is used by nobody.
    let map = MapData::from_pin(maps.join("TURNS"))?;
    let mut value = [0_u8; 8];
    ensure!(map.info()?.value_size() as usize == value.len());
    value[..4].copy_from_slice(&version.to_ne_bytes());
    let settings = maps.join("SETTINGS");
    fs::remove_file(&settings)?;
    map.pin(&settings)?;
    let mut array: Array<_, [u8; 8]> = Map::Array(map).try_into()?;
    Ok(array.set(0, value, 0)?)
}

/// A binary that does what `at_preflight` says and passes it as weir does; and, executed, what `later` says before it
/// is weir.
fn script(lab: &Lab, name: &str, at_preflight: &str, later: &str) -> Result<PathBuf> {
    let weir = weir_binary()?;
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = preflight ]; then\n{at_preflight}\nelse\n{later}\nfi\nexec {} \"$@\"\n",
        weir.display()
    );
    file(
        lab,
        name,
        text.replace("then\n\nelse", "then\n:\nelse").replace("else\n\nfi", "else\n:\nfi").as_bytes(),
        0o755,
    )
}

fn file(lab: &Lab, name: &str, contents: &[u8], mode: u32) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    fs::write(&path, contents)?;
    fs::set_permissions(&path, Permissions::from_mode(mode))?;
    // Nobody may write to what is executed; the file is closed, and on disk.
    File::open(&path)?.sync_all()?;
    Ok(path)
}

fn upgrade(weir: &WeirDaemon, binary: &Path) -> Result<Output> {
    weir.output(&["upgrade", "--binary", binary.to_str().context("path")?])
}

/// Upgrades `weir` to `binary`, which must be refused: what it says.
fn refusal(weir: &WeirDaemon, binary: &Path) -> Result<String> {
    let output = upgrade(weir, binary)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("goes on: "), "{}: {output:?}", binary.display());
    Ok(said)
}

/// No request fails, and there are enough of them.
fn all_succeed(story: &Story) -> Result<()> {
    ensure!(story.0.len() >= 100, "only {} requests", story.0.len());
    nothing_fails(story)
}

fn pid(weir: &WeirDaemon) -> Result<String> {
    Ok(weir.json(&["status"])?["pid"].to_string())
}

fn executable(pid: &str) -> Result<PathBuf> {
    Ok(fs::read_link(format!("/proc/{pid}/exe"))?)
}

/// Files that the process holds on to: the fewest that are open within a second, for connections of checks and of commands
/// come and go.
fn held_files(pid: &str) -> Result<usize> {
    let files = Path::new("/proc").join(pid).join("fd");
    let mut fewest = entries(&files)?.len();
    for _ in 0..50 {
        sleep(Duration::from_millis(20));
        fewest = fewest.min(entries(&files)?.len());
    }
    Ok(fewest)
}

/// Paths in `directory`, in order.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
