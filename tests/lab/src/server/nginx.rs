//! nginx, from a configuration of the lab's own.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::HTTP_PORTS;
use crate::{netns::Netns, process::Process};

/// Starts nginx: `/` answers with `name` (also in the header `X-Backend`), `/50M` with the file `blob`,
/// `/1M` with the file of that name beside it.
pub(super) fn start(name: &str, netns: &Netns, dir: &Path, blob: &Path) -> Result<Process> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let file = dir.join("nginx.conf");
    fs::write(&file, configuration(name, dir, blob))?;
    let mut command = netns.command("nginx");
    command.arg("-e").arg("stderr").arg("-c").arg(&file);
    Process::start(&format!("nginx of {name}"), command, dir.join("nginx.log"))
}

/// One process, so that one SIGKILL is the end of it.
fn configuration(name: &str, dir: &Path, blob: &Path) -> String {
    let mut listens = String::new();
    for port in HTTP_PORTS {
        let _ = write!(listens, "listen {port}; listen [::]:{port}; ");
    }
    let page = blob.with_file_name("1M");
    let (dir, blob, page) = (dir.display(), blob.display(), page.display());
    format!(
        r#"daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    keepalive_requests 1000000;
    sendfile on;
    default_type text/plain;
    add_header X-Backend {name} always;
    server {{
        {listens}
        location = / {{ return 200 "{name}\n"; }}
        location = /50M {{ alias {blob}; }}
        location = /1M {{ alias {page}; }}
    }}
}}
"#
    )
}
