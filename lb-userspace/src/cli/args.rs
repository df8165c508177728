//! The command line's arguments, and the help that goes with them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::{
    config::raw,
    spec::{Mode, OnDown, Protocol, Scheduler, XdpMode},
};

const EXAMPLES: &str = "\
Examples:
  weir doctor eth0                        What can this host do?
  weir check /etc/weir.toml               Is the configuration right?
  weir run --config /etc/weir.toml        Balance
  weir status                             What is it doing?
  weir backend drain web 10.0.0.7         Give a server no new flows
  weir stats --watch                      Watch the traffic
  weir upgrade                            Become the new version, without a packet lost

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// A layer-4 load balancer in the NIC driver's XDP hook.
///
/// `weir run` is the daemon: it loads the packet path into the kernel, checks the backends and keeps the tables right.
/// Traffic goes on while it is stopped, restarted or upgraded. Most other commands ask the daemon through its socket;
/// what they change is in the kernel when they return.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What every command knows.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Socket of the daemon; goes before --instance
    #[arg(long, global = true, value_name = "PATH", env = "WEIR_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Name of the daemon's instance, whose socket is /run/weir/NAME.sock
    #[arg(long, global = true, value_name = "NAME", env = "WEIR_INSTANCE", default_value = "main", value_parser = instance)]
    pub instance: String,
    /// Print JSON with exact numbers instead of tables
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    #[command(after_help = "\
SIGTERM and SIGINT stop the daemon; the packet path stays attached and goes on forwarding unless the configuration says \
on_exit = \"detach\". Logs go to standard error, without times where journald adds them.

Example:
  weir run --config /etc/weir.toml --log info,weir=debug")]
    Run(Run),
    /// Check a configuration file, without root and without a daemon
    #[command(after_help = "Example:\n  weir check /etc/weir.toml")]
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Tell what this host can do, and what to do about the rest
    #[command(
        after_help = "Exits with 1 if something here would keep Weir from working.\n\nExample:\n  weir doctor eth0 eth1"
    )]
    Doctor {
        /// Interfaces to look at; by default all
        #[arg(value_name = "IFACE")]
        interfaces: Vec<String>,
    },
    /// Show what the daemon is doing
    Status,
    /// Show and change services
    #[command(subcommand, visible_alias = "services")]
    Service(ServiceCommand),
    /// Show and change the backends of services
    #[command(subcommand, visible_alias = "backends")]
    Backend(BackendCommand),
    /// Show the counters
    #[command(after_help = "\
Reasons tell how packets left the packet path; those that never occurred are left out, but not from --json.
With --json --watch, every line is one JSON object.

Examples:
  weir stats
  weir stats --watch
  weir stats --watch 0.5 --json | jq -c .services")]
    Stats {
        /// Show rates per second, again and again, every SECONDS
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = interval)]
        watch: Option<f64>,
    },
    /// Have the daemon become another binary, without a packet lost
    #[command(after_help = "\
The other binary is tried first, while the old one runs: it reads the configuration, loads its packet path over the \
tables in the kernel without attaching it, and answers test packets for the services. Only if all of that goes well does \
the daemon become it, in the same process; the new packet path takes the old one's place between two packets. If the \
new daemon is not ready within 30 s, or fails before, the old one comes back by itself. Either way this tells how it \
went, and exits with 1 unless the new version runs.

Start services from where the new binary is installed: this lasts until the daemon is stopped.

Examples:
  install -m 755 weir-new /usr/local/sbin/weir && weir upgrade
  weir upgrade --binary /opt/weir-1.4.0/weir")]
    Upgrade {
        /// The binary, which none but root and the daemon's user may be able to change; by default this one
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Try this binary over the tables of the daemon that runs: what `weir upgrade` has the new binary do
    #[command(hide = true)]
    Preflight(Preflight),
    /// Tell what the loaded program does with a flow, step by step and why
    #[command(after_help = "\
The kernel is asked, by running a copy of the loaded program over a packet of the flow. It changes no counter and no flow \
that real traffic sees. Where the service draws lots or goes round, the next new connection may get another backend.

Examples:
  weir explain 203.0.113.9:40000 192.0.2.10:443
  weir explain [2001:db8:9::1]:5353 [2001:db8::53]:53 udp
  weir explain 10.0.0.7:8080 203.0.113.9:40000     A reply of a nat backend")]
    Explain(Explain),
    /// Detach from every interface, remove the kernel's tables and stop the daemon
    #[command(after_help = "\
Packets to the services are not Weir's any more from then on: connections through it break, and what happens to new ones \
is up to the host's routing.

Without a daemon, what the instance's last daemon left in the kernel is removed, which takes root.")]
    Detach,
    /// Unpack tunnel packets on a backend, by XDP
    #[command(after_help = "\
For backends of ipip services, in place of a kernel tunnel device: tunnel packets from the given networks are unpacked \
and handed to this host, all others pass as they came. The VIP must be an address of this host. Runs until SIGTERM or \
SIGINT, then detaches.

Example:
  weir decap --interface eth0 --source 10.77.0.0/16 --source fd00:77::/64")]
    Decap(Decap),
    /// Print a completion script
    #[command(after_help = "Example:\n  weir completions bash > /etc/bash_completion.d/weir")]
    Completions {
        /// The shell it is for
        shell: Shell,
    },
}

/// `weir run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What to log: a level, or levels by module
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

/// `weir preflight`.
#[derive(Debug, Args)]
pub struct Preflight {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `weir explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Address and port that the packets come from
    #[arg(value_name = "SRC:PORT")]
    pub source: SocketAddr,
    /// Address and port that they go to
    #[arg(value_name = "DST:PORT")]
    pub destination: SocketAddr,
    /// Transport protocol
    #[arg(value_enum, default_value = "tcp")]
    pub protocol: Protocol,
}

/// `weir decap`.
#[derive(Debug, Args)]
pub struct Decap {
    /// Interface that tunnel packets come in by; may be repeated
    #[arg(long = "interface", value_name = "IFACE", required = true)]
    pub interfaces: Vec<String>,
    /// Network that tunnel packets may come from: the balancers' outer sources; may be repeated
    #[arg(long = "source", value_name = "NET", required = true, value_parser = network)]
    pub sources: Vec<IpNet>,
    /// How to attach
    #[arg(long, value_name = "MODE", value_enum, default_value_t = XdpMode::Native)]
    pub xdp: XdpMode,
    /// What to log: a level, or levels by module
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

/// `weir service`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// List the services
    List,
    /// Show a service and its backends
    Show {
        /// Name of the service
        name: String,
    },
    /// Add a service
    #[command(after_help = "\
Examples:
  weir service add web --vip 192.0.2.10 --port 443 --mode ipip \\
      --backend 10.0.0.7 --backend 10.0.0.8,weight=2
  weir service add dns --vip 2001:db8::53 --port 53 --protocol udp --mode nat \\
      --backend [2001:db8:1::7]:5353,name=ns1 --no-health
  weir service add --file web.toml        One [[service]], as in the configuration")]
    Add(Box<AddService>),
    /// Remove a service with its backends
    #[command(after_help = "Packets to it are not Weir's any more from then on.")]
    Remove {
        /// Name of the service
        name: String,
    },
}

/// `weir service add`.
#[derive(Debug, Args)]
pub struct AddService {
    /// Name of the service
    #[arg(required_unless_present = "file")]
    pub name: Option<String>,
    /// Read the service from a TOML file with one [[service]], as in the configuration; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "vip", "port", "protocol", "mode",
        "scheduler", "slots", "idle", "settle_after", "hold", "on_down", "slow_start", "backends", "no_health", "health_port", "health_interval", "health_timeout", "health_rise", "health_fall",
        "health_jitter"])]
    pub file: Option<PathBuf>,
    /// Virtual address that clients connect to
    #[arg(long, value_name = "ADDRESS", required_unless_present = "file")]
    pub vip: Option<IpAddr>,
    /// Port that clients connect to, or any for all that no other service has
    #[arg(long, value_name = "PORT|any", required_unless_present = "file", value_parser = service_port)]
    pub port: Option<raw::Port>,
    /// Transport protocol
    #[arg(long, value_enum, default_value = "tcp")]
    pub protocol: Protocol,
    /// How packets reach the backends
    #[arg(long, value_enum, required_unless_present = "file")]
    pub mode: Option<Mode>,
    /// How the backend of a new flow is chosen
    #[arg(long, value_enum, default_value = "maglev")]
    pub scheduler: Scheduler,
    /// Slots of the service; by default it follows from the backends
    #[arg(long, value_name = "N")]
    pub slots: Option<u32>,
    /// A backend; may be repeated
    #[arg(long = "backend", value_name = "ADDRESS[:PORT][,weight=N][,name=X]", value_parser = backend)]
    pub backends: Vec<raw::Backend>,
    /// What becomes of its flows.
    #[command(flatten)]
    pub flows: FlowArgs,
    /// How its backends are checked.
    #[command(flatten)]
    pub health: HealthArgs,
}

/// What `weir service add` says of flows.
#[derive(Debug, Args)]
#[command(next_help_heading = "Flows")]
pub struct FlowArgs {
    /// Time after which a silent flow is forgotten, such as 24h
    #[arg(long, value_name = "TIME")]
    pub idle: Option<String>,
    /// Time after a change within which an old flow has to speak to stay where it is
    #[arg(long, value_name = "TIME")]
    pub settle_after: Option<String>,
    /// How long a backend whose checks fail keeps its flows
    #[arg(long, value_name = "TIME|forever")]
    pub hold: Option<String>,
    /// What flows get whose backend is gone
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_down: Option<OnDown>,
    /// Time in which a backend that comes in gets its full share
    #[arg(long, value_name = "TIME")]
    pub slow_start: Option<String>,
}

/// Health checks of `weir service add`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Health checks")]
pub struct HealthArgs {
    /// Don't check the backends: take them as always up
    #[arg(long, conflicts_with_all = ["health_port", "health_interval", "health_timeout", "health_rise", "health_fall",
        "health_jitter"])]
    pub no_health: bool,
    /// Port to connect to; by default where the service's packets go
    #[arg(long, value_name = "PORT")]
    pub health_port: Option<u16>,
    /// Time between checks, such as 500ms
    #[arg(long, value_name = "TIME")]
    pub health_interval: Option<String>,
    /// Time after which a check has failed
    #[arg(long, value_name = "TIME")]
    pub health_timeout: Option<String>,
    /// Successes in a row that bring a backend up
    #[arg(long, value_name = "N")]
    pub health_rise: Option<u32>,
    /// Failures in a row that take it down
    #[arg(long, value_name = "N")]
    pub health_fall: Option<u32>,
    /// Stretch or shrink each interval at random by up to this
    #[arg(long, value_name = "PERCENT")]
    pub health_jitter: Option<u8>,
}

/// `weir backend`.
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// List the backends
    #[command(after_help = "\
FLOWS are the flows that are remembered one by one. A \"+\" stands where others may be the backend's too: it needs no \
memory for flows that its slots lead to anyway.")]
    List {
        /// Name of a service; by default all
        service: Option<String>,
    },
    /// Add a backend to a service
    #[command(after_help = "\
Examples:
  weir backend add web 10.0.0.9 --weight 2
  weir backend add api [2001:db8::9]:8443 --name api9")]
    Add {
        /// Name of the service
        service: String,
        /// Address of the backend; in mode nat with a port, if it isn't the service's
        #[arg(value_name = "ADDRESS[:PORT]", value_parser = address)]
        address: (IpAddr, Option<u16>),
        /// Name of the backend; by default its address, with its port where it has one
        #[arg(long)]
        name: Option<String>,
        /// Share of new flows relative to the other backends, 0 to 1000
        #[arg(long, value_name = "N", default_value_t = 1)]
        weight: u16,
    },
    /// Remove a backend, when its last connection has ended
    #[command(after_help = "\
It takes no new flows from then on and is listed as \"leaving\" while it still serves old ones. With --now these count as \
gone at once, and get what the service's on_down says.")]
    Remove {
        /// Which backend.
        #[command(flatten)]
        backend: BackendName,
        /// Don't let its connections end by themselves
        #[arg(long)]
        now: bool,
    },
    /// Set the weight of a backend
    #[command(after_help = "Example:\n  weir backend weight web 10.0.0.9 5")]
    Weight {
        /// Which backend.
        #[command(flatten)]
        backend: BackendName,
        /// Share of new flows relative to the other backends, 0 to 1000; 0 takes none
        #[arg(value_name = "N")]
        weight: u16,
    },
    /// Let a backend take no new flows
    #[command(after_help = "\
With --wait, what is left is shown until it is nothing: on one line that is rewritten on a terminal, on a new line for \
each change otherwise. With --json, every line is one JSON object then: what the command did, and the flows that are left \
each time their number changes. The wait fails if it is interrupted or the daemon ends; the backend drains on.

Examples:
  weir backend drain web 10.0.0.7 --wait
  weir backend drain web 10.0.0.7 --deadline 8h")]
    Drain {
        /// Which backend.
        #[command(flatten)]
        backend: BackendName,
        /// Time after which what is left of its flows counts as gone; by default they end by themselves
        #[arg(long, value_name = "TIME", value_parser = deadline)]
        deadline: Option<Duration>,
        /// Wait until no flow is left
        #[arg(long)]
        wait: bool,
    },
    /// Let a draining backend take new flows again
    Undrain(BackendName),
}

/// A backend by its name.
#[derive(Debug, Args)]
pub struct BackendName {
    /// Name of the service
    pub service: String,
    /// Name of the backend, as in `weir backend list`
    pub backend: String,
}

fn instance(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(good) {
        return Err("a name has letters, digits, \"-\", \"_\" and \".\", and does not start with \".\"".to_owned());
    }
    Ok(name.to_owned())
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, 0.1 to 86400".to_owned()),
    }
}

fn deadline(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 90s, 10m or 8h".to_owned())
}

/// A network; a plain address is the network of it alone.
fn network(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| "expected ADDRESS/PREFIX, such as 10.77.0.0/16")?,
    };
    if net.trunc() == net { Ok(net) } else { Err(format!("has host bits set; the network is {}", net.trunc())) }
}

fn service_port(text: &str) -> Result<raw::Port, String> {
    match (text, text.parse::<u16>()) {
        ("any", _) => Ok(raw::Port::Any),
        (_, Ok(port)) if port != 0 => Ok(raw::Port::Number(port.into())),
        _ => Err("expected 1 to 65535, or any".to_owned()),
    }
}

/// `ADDRESS[:PORT]`, with brackets around an IPv6 address that a port follows.
fn address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse() {
        return Ok((address, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(both) if both.port() != 0 => Ok((both.ip(), Some(both.port()))),
        _ => Err("expected ADDRESS or ADDRESS:PORT, such as 10.0.0.7, 10.0.0.7:8080 or [2001:db8::7]:8080".to_owned()),
    }
}

/// `ADDRESS[:PORT][,weight=N][,name=X]`.
fn backend(text: &str) -> Result<raw::Backend, String> {
    let mut parts = text.split(',');
    let (address, port) = address(parts.next().unwrap_or_default())?;
    let mut backend = new_backend(address, port, None, 1);
    for part in parts {
        match part.split_once('=') {
            Some(("weight", weight)) => {
                backend.weight = weight.parse().map_err(|_| format!("weight: expected a number, found {weight:?}"))?;
            }
            Some(("name", name)) => backend.name = Some(name.to_owned()),
            _ => return Err(format!("expected weight=N or name=X, found {part:?}")),
        }
    }
    Ok(backend)
}

/// A backend as the API takes it.
#[must_use]
pub fn new_backend(address: IpAddr, port: Option<u16>, name: Option<String>, weight: u16) -> raw::Backend {
    raw::Backend {
        name,
        address: address.to_string(),
        port: port.map(Into::into),
        weight: weight.into(),
        draining: false,
        drain_until: None,
    }
}
