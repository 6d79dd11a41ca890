//! `slugline token rotate`: has the daemon make a new token. `slugline token path`: says where it is.

use std::io::Write;

use anyhow::bail;
use serde_json::json;

use super::args::{Token, TokenCommand};
use super::client::Client;
use crate::config::Config;

/// Does it and says what came of it; never the token itself.
pub async fn run(args: &Token, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    match &args.what {
        TokenCommand::Path { .. } => writeln!(out, "{}", config.data_dir.join("token").display())?,
        TokenCommand::Rotate { grace_ms, .. } => {
            let reply = client(config)?.post("/token/rotate", &json!({ "grace_ms": grace_ms })).await?;
            let answer = reply.json();
            if reply.status != 200 {
                bail!("the daemon answered {}: {}", reply.status, answer["detail"].as_str().unwrap_or(&reply.text()));
            }
            writeln!(out, "{}", answer["token_path"].as_str().unwrap_or_default())?;
            match answer["grace_ms"].as_u64() {
                Some(0) => writeln!(out, "the old token is no longer good")?,
                _ => writeln!(out, "the old token is good until {}", answer["old_until"].as_str().unwrap_or("?"))?,
            }
        }
    }
    Ok(())
}

/// By the socket where there is one: it asks for no token.
fn client(config: &Config) -> anyhow::Result<Client> {
    match config.socket.as_deref().filter(|socket| socket.exists()) {
        Some(socket) => Ok(Client::unix(socket)),
        None => Client::of_data_dir(&config.data_dir).map_err(anyhow::Error::msg),
    }
}
