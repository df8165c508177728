//! `weir backend`.

use super::{
    args::{BackendCommand, BackendName, new_backend},
    context::Context,
    drain, render,
};

pub fn execute(command: BackendCommand, context: &mut Context<'_>) -> anyhow::Result<()> {
    let change = match command {
        BackendCommand::List { service: None } => {
            let services = context.ask(async |client| client.services().await)?;
            return context.show(services.as_slice(), render::backends);
        }
        BackendCommand::List { service: Some(name) } => {
            let service = context.ask(async |client| client.service(&name).await)?;
            return context.show([service].as_slice(), render::backends);
        }
        BackendCommand::Add { service, address: (address, port), name, weight } => {
            let backend = new_backend(address, port, name, weight);
            context.ask(async |client| client.add_backend(&service, &backend).await)?
        }
        BackendCommand::Remove { backend: BackendName { service, backend }, now } => {
            context.ask(async |client| client.remove_backend(&service, &backend, now).await)?
        }
        BackendCommand::Weight { backend: BackendName { service, backend }, weight } => {
            context.ask(async |client| client.set_weight(&service, &backend, weight).await)?
        }
        BackendCommand::Drain { backend: BackendName { service, backend }, deadline, wait } => {
            let change = context.ask(async |client| client.drain(&service, &backend, deadline).await)?;
            return if wait { drain::wait(&change, &service, &backend, context) } else { context.show_change(&change) };
        }
        BackendCommand::Undrain(BackendName { service, backend }) => {
            context.ask(async |client| client.undrain(&service, &backend).await)?
        }
    };
    context.show_change(&change)
}
