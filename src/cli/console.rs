//! `slugline console`: asks the daemon for a link that signs in whoever opens it, and opens it in a browser.

use std::io::{self, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::client::Client;

/// The program that opens what a person would double-click.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// Asks, prints, and opens unless it shall only print.
pub async fn show(client: &Client, only_print: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let url = link(client).await?;
    writeln!(out, "{url}")?;
    out.flush()?;
    if !only_print && let Err(error) = open(&url) {
        eprintln!("slugline: no browser was opened ({OPENER}: {error}); open the link yourself, within two minutes");
    }
    Ok(())
}

async fn link(client: &Client) -> anyhow::Result<String> {
    let reply = client.post("/console/links", &json!({})).await?;
    if reply.status != 200 {
        bail!("the daemon answered {}: {}", reply.status, reply.text());
    }
    Ok(reply.json()["url"].as_str().context("the daemon gave no link")?.to_owned())
}

/// Some openers stay as long as the browser does, so nobody waits for them; nor is the browser closed from this terminal.
fn open(url: &str) -> io::Result<()> {
    let mut command = Command::new(OPENER);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map(drop)
}
