//! Questions to the kernel over netlink: one socket, one question at a time, no runtime.

use std::{fmt::Debug, io};

use rtnetlink::{
    packet_core::{
        DecodeError, DefaultNla, Emitable, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable,
        NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla, NlasIterator, Parseable,
    },
    sys::{Socket, SocketAddr, protocols},
};

/// The generic netlink controller, which knows the ids of the other families.
const CONTROLLER: u16 = 0x10;
const CONTROLLER_GET_FAMILY: u8 = 3;
const CONTROLLER_FAMILY_ID: u16 = 1;
const CONTROLLER_FAMILY_NAME: u16 = 2;

/// A netlink socket of one protocol.
pub(super) struct Client {
    socket: Socket,
    sequence: u32,
}

impl Client {
    pub(super) fn route() -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    pub(super) fn generic() -> io::Result<Self> {
        Self::open(protocols::NETLINK_GENERIC)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for one thing.
    pub(super) fn get<T>(&mut self, question: T) -> io::Result<Vec<T>>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.ask(question, NLM_F_ACK)
    }

    /// Asks for everything of a kind.
    pub(super) fn dump<T>(&mut self, question: T) -> io::Result<Vec<T>>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.ask(question, NLM_F_DUMP)
    }

    fn ask<T>(&mut self, question: T, flags: u16) -> io::Result<Vec<T>>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if self.take_answers(&datagram, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Adds the answers in `datagram`; true once the last one has come.
    fn take_answers<T>(&self, datagram: &[u8], answers: &mut Vec<T>) -> io::Result<bool>
    where
        T: NetlinkDeserializable + Debug,
    {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest).map_err(invalid)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            if message.header.sequence_number != self.sequence {
                continue;
            }
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Done(_) => return Ok(true),
                // An error of code 0 is the acknowledgement, which comes last.
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Overrun(_) => return Err(io::Error::other("netlink overrun")),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The id of a generic netlink family: an error of kind `NotFound` where the kernel has none of this name.
    pub(super) fn family(&mut self, name: &str) -> io::Result<u16> {
        let name = DefaultNla::new(CONTROLLER_FAMILY_NAME, [name.as_bytes(), &[0]].concat());
        let question = Generic { family: CONTROLLER, command: CONTROLLER_GET_FAMILY, attributes: vec![name] };
        let answers = self.get(question)?;
        let id = answers.iter().find_map(|answer| answer.attribute(CONTROLLER_FAMILY_ID)?.try_into().ok());
        id.map(u16::from_ne_bytes).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// A generic netlink message with its attributes as they come.
#[derive(Debug)]
pub(super) struct Generic {
    pub(super) family: u16,
    pub(super) command: u8,
    pub(super) attributes: Vec<DefaultNla>,
}

/// Command, version, reserved (`struct genlmsghdr`).
const GENERIC_HEADER: usize = 4;
const GENERIC_VERSION: u8 = 1;

impl Generic {
    /// The value of the first attribute of a kind.
    pub(super) fn attribute(&self, kind: u16) -> Option<Vec<u8>> {
        value_of(&self.attributes, kind)
    }
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        GENERIC_HEADER + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(GENERIC_HEADER);
        header.copy_from_slice(&[self.command, GENERIC_VERSION, 0, 0]);
        self.attributes.as_slice().emit(attributes);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (generic, attributes) = payload
            .split_at_checked(GENERIC_HEADER)
            .ok_or_else(|| DecodeError::from("a generic netlink message without header"))?;
        Ok(Self { family: header.message_type, command: generic[0], attributes: parse_attributes(attributes)? })
    }
}

/// The attributes in the value of a nested attribute.
pub(super) fn parse_attributes(bytes: &[u8]) -> Result<Vec<DefaultNla>, DecodeError> {
    NlasIterator::new(bytes).map(|attribute| DefaultNla::parse(&attribute?)).collect()
}

/// The value of the first attribute of a kind.
pub(super) fn value_of(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    attributes.iter().find(|attribute| attribute.kind() & NLA_TYPE_MASK == kind).map(value)
}

/// The value of an attribute.
pub(super) fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
