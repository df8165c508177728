//! The configuration as it is written: the shape of the TOML file, of the API's JSON and of the saved state.
//!
//! Plain values that nobody has looked at yet: addresses and durations are strings, numbers may be out of range.
//! [`super::validate`] turns a [`Config`] into a [`Spec`](crate::spec::Spec); the way back is [`From`] and always
//! works. What each field means is told in [`crate::spec`] and in `docs/weir.toml`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use crate::spec::{Mode, OnDown, OnExit, Protocol, Scheduler, XdpMode};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[node]`.
    #[serde(default)]
    pub node: Node,
    /// Every `[[service]]`.
    #[serde(default, rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Name of this instance.
    pub instance: String,
    /// Interfaces to attach to.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub xdp: XdpMode,
    /// What stopping the daemon does.
    pub on_exit: OnExit,
    /// Path of the daemon's socket; by default named after the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Path of the state directory; by default named after the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
    /// `ADDRESS:PORT` to serve metrics on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// `0x` and 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// `ADDRESS/PREFIX`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer_v4: Option<String>,
    /// `ADDRESS/PREFIX`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer_v6: Option<String>,
    /// `[node.tables]`.
    pub tables: Tables,
}

/// `[node.tables]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tables {
    /// Services, each address family.
    pub services: i64,
    /// Backends of all services.
    pub backends: i64,
    /// Slots of all services.
    pub slots: i64,
    /// Routes towards clients of NAT services, each address family.
    pub routes: i64,
    /// Tracked flows, each address family.
    pub flows: i64,
}

/// `[[service]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewService)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its virtual address.
    pub vip: String,
    /// Its port.
    pub port: Port,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: Mode,
    /// How the backend of a new flow is chosen.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Number of slots; by default it follows from the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<i64>,
    /// Duration such as `24h` after which a silent flow is forgotten; the default depends on the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// Duration in which old flows have to speak after a change; the default depends on the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_after: Option<String>,
    /// Duration for which a backend whose checks fail keeps its flows, or `forever`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// What flows get whose backend is gone; the default depends on the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_down: Option<OnDown>,
    /// Duration in which a backend that comes in gets its full share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// How backends are checked; the default depends on the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Every `[[service.backend]]`.
    #[serde(default, rename = "backend", skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

/// `[[service.backend]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBackend)]
pub struct Backend {
    /// Its name; by default its address, with its port where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its address.
    pub address: String,
    /// Its port, if it isn't the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Its share of new flows.
    #[serde(default = "default_weight")]
    pub weight: i64,
    /// Whether it takes no new flows.
    #[serde(default)]
    pub draining: bool,
    /// Unix time in seconds at which what is left of a draining backend's flows counts as gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_until: Option<i64>,
}

/// A number or `"any"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// `"any"`.
    Any,
    /// A number.
    Number(i64),
}

/// `"none"` or a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// `"none"`: backends are taken as always up.
    Off,
    /// TCP checks.
    Checks(Checks),
}

/// `health = { … }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = HealthChecks)]
pub struct Checks {
    /// Port to connect to, if it isn't where the service's packets go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Duration such as `2s`.
    pub interval: String,
    /// Duration; by default 1 s, or `interval` if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Successes in a row that bring a backend up.
    pub rise: i64,
    /// Failures in a row that take it down.
    pub fall: i64,
    /// Percent.
    pub jitter: i64,
}

/// What `hold` has in place of a duration for one without end.
pub(crate) const FOREVER: &str = "forever";

fn default_weight() -> i64 {
    1
}

impl Backend {
    /// What the backend is known by: its name, or its address with the port that it has of its own.
    #[must_use]
    pub fn label(&self) -> String {
        match (&self.name, self.port) {
            (Some(name), _) => name.clone(),
            (None, None) => self.address.clone(),
            (None, Some(port)) if self.address.contains(':') => format!("[{}]:{port}", self.address),
            (None, Some(port)) => format!("{}:{port}", self.address),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            instance: "main".to_owned(),
            interfaces: Vec::new(),
            xdp: XdpMode::default(),
            on_exit: OnExit::default(),
            socket: None,
            state_dir: None,
            metrics: None,
            seed: None,
            outer_v4: None,
            outer_v6: None,
            tables: Tables::default(),
        }
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self { services: 1024, backends: 16_384, slots: 1 << 22, routes: 4096, flows: 1 << 18 }
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self { port: None, interval: "2s".to_owned(), timeout: None, rise: 2, fall: 3, jitter: 10 }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::Number(port) => serializer.serialize_i64(*port),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or \"any\"")
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<Port, E> {
                Ok(Port::Number(port))
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Port, E> {
                // Out of range for a port as well as for an i64; validation says which range it should be in.
                Ok(Port::Number(i64::try_from(port).unwrap_or(i64::MAX)))
            }

            fn visit_str<E: de::Error>(self, port: &str) -> Result<Port, E> {
                if port == "any" { Ok(Port::Any) } else { Err(E::invalid_value(de::Unexpected::Str(port), &self)) }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("none"),
            Self::Checks(checks) => checks.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Health;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { interval = \"2s\" } or \"none\"")
            }

            fn visit_str<E: de::Error>(self, health: &str) -> Result<Health, E> {
                if health == "none" {
                    Ok(Health::Off)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(health), &self))
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Health, A::Error> {
                Checks::deserialize(de::value::MapAccessDeserializer::new(map)).map(Health::Checks)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
