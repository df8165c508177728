//! Every forwarding mode in both address families, with real servers and clients: who answers, how often, and that what
//! arrives is what was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use weir_lab::{
    Family, HTTP_PORTS, Lab, Mode, TCP_LINE_PORT, UDP_ECHO_PORT, WeirDaemon,
    addresses::in_url,
    client::{curl, wrk::Wrk},
    config::Service,
};
use weir_system::{Echo, Lines, check_spread, lab};

/// Of the services whose spread is measured.
const WEIGHTS: [u16; 4] = [4, 3, 2, 1];
/// Connections from which the spread is judged.
const CONNECTIONS: u32 = 2000;
/// A port on which no backend listens, so that only a translated connection is answered.
const NOBODYS_PORT: u16 = 81;
/// Client addresses, where the source chooses the backend.
const SOURCES: u8 = 24;

#[test]
fn nat_one_armed() -> Result<()> {
    forwards(Mode::Nat, false)
}

#[test]
fn nat_two_armed() -> Result<()> {
    forwards(Mode::Nat, true)
}

#[test]
fn l2_one_armed() -> Result<()> {
    forwards(Mode::L2, false)
}

#[test]
fn l2_two_armed() -> Result<()> {
    forwards(Mode::L2, true)
}

#[test]
fn ipip_one_armed() -> Result<()> {
    forwards(Mode::Ipip, false)
}

#[test]
fn ipip_two_armed() -> Result<()> {
    forwards(Mode::Ipip, true)
}

/// One lab for everything that a mode must do: making it takes longer than most of the checks.
fn forwards(mode: Mode, two_armed: bool) -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.clients(2).backends(4).mode(mode).two_armed(two_armed).build()?;
    let services: Vec<_> = Family::BOTH.into_iter().flat_map(|family| services(&lab, family)).collect();
    if mode == Mode::Nat {
        give_addresses(&lab, &services)?;
    }
    let weir = lab.weir(&lab.config(&services))?;
    for family in Family::BOTH {
        let check = || {
            connections_spread_by_weight(&lab, &weir, family)?;
            datagrams_of_a_flow_stay_together(&lab, family)?;
            every_port_is_served(&lab, family)?;
            clients_stay_where_they_are(&lab, family)?;
            large_transfers_arrive_whole(&lab, family)?;
            special(&lab, family)?;
            load_is_borne(&lab, family)
        };
        check().with_context(|| format!("{family:?}\n{}", weir.cli(&["stats"]).unwrap_or_default()))?;
    }
    Ok(())
}

/// The services of `family`, named `web-V4` and so on, on a VIP each.
fn services(lab: &Lab, family: Family) -> Vec<Service> {
    let make = |what: &str, vip: u8| {
        let mut service = Service { vip: family.vip(vip), ..lab.service(&name(what, family), family) };
        if lab.mode() == Mode::Nat {
            // Replies are told apart by the backend's address, so that each service needs others.
            service.members.iter_mut().for_each(|member| member.address = address_for(vip, member.address));
        }
        service
    };
    let mut services = vec![
        make("web", 1).weights(&WEIGHTS),
        Service { port: Some(UDP_ECHO_PORT), protocol: "udp", ..make("echo", 1) },
        Service { port: None, ..make("any", 2) },
        Service { more: "scheduler = \"source\"".to_owned(), ..make("source", 3) },
    ];
    match lab.mode() {
        Mode::Nat => {
            let mut translated = Service { port: Some(NOBODYS_PORT), ..make("special", 4) };
            for member in &mut translated.members {
                member.port = Some(HTTP_PORTS[1]);
            }
            services.push(translated);
        }
        Mode::Ipip => services.push(Service { members: lab.members(other(family)), ..make("special", 4) }),
        Mode::L2 => {}
    }
    services
}

/// Of a backend's many addresses, the one for the services on VIP `vip`; on the first it is its own.
fn address_for(vip: u8, own: IpAddr) -> IpAddr {
    match own {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() + 20 * u32::from(vip - 1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() + 0x100 * u128::from(vip - 1)).into(),
    }
}

/// Gives the backends the addresses that `services` have for them.
fn give_addresses(lab: &Lab, services: &[Service]) -> Result<()> {
    for (index, backend) in lab.backends().iter().enumerate() {
        let addresses: BTreeSet<_> = services.iter().map(|service| service.members[index].address).collect();
        let own = Family::BOTH.map(|family| backend.address(family));
        let add = |address: &IpAddr| match address {
            IpAddr::V4(v4) => format!("address add {v4}/24 dev eth0\n"),
            IpAddr::V6(v6) => format!("address add {v6}/64 dev eth0 nodad\n"),
        };
        backend.netns().ip(&addresses.iter().filter(|address| !own.contains(address)).map(add).collect::<String>())?;
    }
    Ok(())
}

fn name(what: &str, family: Family) -> String {
    format!("{what}-{family:?}")
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

fn url(vip: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}:{port}/{path}", in_url(vip))
}

/// Every backend answers, as often as its weight says, and Weir counts what the clients saw.
fn connections_spread_by_weight(lab: &Lab, weir: &WeirDaemon, family: Family) -> Result<()> {
    let mut answers = BTreeMap::new();
    let clients = lab.clients();
    for client in clients {
        let part = curl::spread(client, &url(family.vip(1), 80, ""), CONNECTIONS / u32::try_from(clients.len())?)?;
        for (backend, count) in part {
            *answers.entry(backend).or_default() += count;
        }
    }
    check_spread(&answers, &WEIGHTS)?;
    for (backend, counted) in weir.connections(&name("web", family))? {
        let answered = answers[&backend];
        // On a busy machine a SYN may be lost and sent again.
        ensure!((answered..=answered + 20).contains(&counted), "{backend}: {answered} answers, {counted} counted");
    }
    Ok(())
}

/// Datagrams up to the size of the clients' links come back whole, all of a flow from the same backend.
fn datagrams_of_a_flow_stay_together(lab: &Lab, family: Family) -> Result<()> {
    let target = SocketAddr::new(family.vip(1), UDP_ECHO_PORT);
    // The echo is longer by the name and a blank.
    let largest = 1500 - 8 - "b1 ".len() - if family == Family::V4 { 20 } else { 40 };
    let mut backends = BTreeSet::new();
    for flow in 0..64 {
        let socket = Echo::open(lab.client(), target)?;
        let first = socket.ask(1).with_context(|| format!("flow {flow}"))?;
        for payload in [0, 100, largest] {
            ensure!(socket.ask(payload)? == first, "a datagram of {payload} bytes went to another backend");
        }
        backends.insert(first);
    }
    ensure!(backends.len() == 4, "64 flows reached {backends:?} only");
    Ok(())
}

/// A service of every port keeps the port that the client asked for.
fn every_port_is_served(lab: &Lab, family: Family) -> Result<()> {
    for port in HTTP_PORTS {
        let answers = curl::spread(lab.client(), &url(family.vip(2), port, ""), 40)?;
        ensure!(answers.len() == 4, "port {port} is answered by {answers:?}");
    }
    let mut lines = Lines::connect(lab.client(), SocketAddr::new(family.vip(2), TCP_LINE_PORT))?;
    lines.ask("not HTTP")?;
    Ok(())
}

/// With `scheduler = "source"`, all connections of an address go to one backend, and addresses to several.
fn clients_stay_where_they_are(lab: &Lab, family: Family) -> Result<()> {
    let sources: Vec<String> = (0..SOURCES)
        .map(|n| if family == Family::V4 { format!("10.1.0.{}", 100 + n) } else { format!("fd01::1:{n}") })
        .collect();
    let (length, flags) = if family == Family::V4 { (24, "") } else { (64, " nodad") };
    let add = |source| format!("address add {source}/{length} dev eth0{flags}\n");
    lab.client().ip(&sources.iter().map(add).collect::<String>())?;

    let urls = format!("{}#[1-5]", url(family.vip(3), 80, "").replace('[', "\\[").replace(']', "\\]"));
    let mut backends = BTreeSet::new();
    for source in &sources {
        let mut command = lab.client().command("curl");
        command.args(["-sS", "--fail", "--max-time", "20", "-H", "Connection: close", "--interface", source, &urls]);
        let output = command.output()?;
        ensure!(output.status.success(), "from {source}: {}", String::from_utf8_lossy(&output.stderr));
        let answers = String::from_utf8(output.stdout)?;
        let seen: BTreeSet<_> = answers.lines().map(str::to_owned).collect();
        ensure!(seen.len() == 1 && answers.lines().count() == 5, "connections from {source} reached {answers:?}");
        backends.extend(seen);
    }
    // All of them on two backends: once in three million times.
    ensure!(backends.len() > 2, "{SOURCES} clients reached {backends:?} only");
    Ok(())
}

/// 50 MB towards the client, 10 MB to the backend and back.
fn large_transfers_arrive_whole(lab: &Lab, family: Family) -> Result<()> {
    let expected = lab.blob_sha256()?;
    let file = lab.dir().join("downloaded");
    let arrived = curl::download(lab.client(), &url(family.vip(1), 80, "50M"), &file)?;
    ensure!(arrived == expected, "the file arrived with SHA-256 {arrived}, not {expected}");
    Lines::connect(lab.client(), SocketAddr::new(family.vip(2), TCP_LINE_PORT))?.ask_much(10_000)?;
    Ok(())
}

/// What one mode alone can do: `nat` translates ports, `ipip` carries a family in the other.
fn special(lab: &Lab, family: Family) -> Result<()> {
    let port = match lab.mode() {
        Mode::Nat => NOBODYS_PORT,
        Mode::Ipip => 80,
        Mode::L2 => return Ok(()),
    };
    let answers = curl::spread(lab.client(), &url(family.vip(4), port, ""), 200)?;
    check_spread(&answers, &[1, 1, 1, 1])?;
    let file = lab.dir().join("downloaded");
    let arrived = curl::download(lab.client(), &url(family.vip(4), port, "50M"), &file)?;
    ensure!(arrived == lab.blob_sha256()?, "the file arrived with SHA-256 {arrived}");
    Ok(())
}

/// Many connections at a time, and not one request fails.
fn load_is_borne(lab: &Lab, family: Family) -> Result<()> {
    for keep_alive in [false, true] {
        let report = Wrk { connections: 16, seconds: 1, keep_alive }.run(lab, &url(family.vip(1), 80, ""))?;
        ensure!(report.failed() == 0 && report.requests > 500, "{report:?}");
        // Sixteen long connections of two clients need not reach everybody.
        ensure!(keep_alive || report.by_backend.len() == 4, "{report:?}");
    }
    Ok(())
}
