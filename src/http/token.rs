//! `POST /token/rotate` a new token. The token is in a file for this user alone; what is in the file is what is good, so it
//! is written first.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use warp::Filter;
use warp::http::StatusCode;
use warp::hyper::body::Bytes;

use super::Routes;
use super::guard::{Access, Visitor};
use super::problem::{Answer, json, parse, reply};
use super::signing::random;
use crate::actors::Handle;
use crate::actors::exclusion::write_to_stay;
use crate::actors::inputs::hex;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::{GRACE_MS_MAX, RotateRequest, RotatedView};

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

/// The file that holds the token.
#[derive(Debug, Clone)]
pub struct TokenFile {
    /// Where it is.
    pub path: PathBuf,
    /// How long an old token is good when nothing is said.
    pub grace: Duration,
}

impl TokenFile {
    /// The token in it; made when there is none.
    pub fn read_or_make(&self) -> io::Result<String> {
        let wrong =
            |error: io::Error| io::Error::new(error.kind(), format!("the token in {}: {error}", self.path.display()));
        match std::fs::read_to_string(&self.path) {
            Ok(token) if token.trim().len() >= TOKEN_BYTES => Ok(token.trim().to_owned()),
            Ok(_) => Err(wrong(io::Error::other("it is too short; remove the file and a new one is made"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.renew().map_err(wrong),
            Err(error) => Err(wrong(error)),
        }
    }

    /// Puts a new token in it, whole or not at all, and says it when it is on disk.
    fn renew(&self) -> io::Result<String> {
        let token = hex(&random::<TOKEN_BYTES>()?);
        // What somebody left there would keep its mode.
        match std::fs::remove_file(self.path.with_extension("part")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        write_to_stay(&self.path, format!("{token}\n").as_bytes())?;
        Ok(token)
    }
}

/// What a rotation needs; one at a time.
struct Rotation {
    handle: Handle,
    access: Access,
    file: Option<TokenFile>,
    on: Mutex<()>,
}

pub(super) fn routes(handle: Handle, access: Access, file: Option<TokenFile>) -> Routes {
    let rotation = Arc::new(Rotation { handle, access, file, on: Mutex::default() });
    warp::path!("token" / "rotate")
        .and(warp::post())
        .and(warp::any().map(move || rotation.clone()))
        .and(warp::ext::get::<Visitor>())
        .and(warp::body::bytes())
        .then(|rotation: Arc<Rotation>, visitor: Visitor, body: Bytes| async move {
            reply(rotate(rotation, visitor, &body).await)
        })
        .boxed()
}

async fn rotate(rotation: Arc<Rotation>, visitor: Visitor, body: &Bytes) -> Answer {
    let request: RotateRequest = parse(body)?;
    let invalid = |detail: String| Problem::new(ProblemCode::InvalidRequest, detail);
    let file = rotation.file.clone();
    let file = file.ok_or_else(|| invalid("there is no token: [auth] mode is \"none\"".to_owned()))?;
    if request.grace_ms.is_some_and(|grace| grace > GRACE_MS_MAX) {
        return Err(invalid(format!("grace_ms is at most {GRACE_MS_MAX}: a day")));
    }
    let grace = request.grace_ms.map_or(file.grace, Duration::from_millis);
    // A task of its own: a caller who goes does not leave a new file beside an old token.
    let rotated = tokio::spawn(async move {
        let _one = rotation.on.lock().await;
        // Whoever has only the old token must not be able to end the new one.
        if !rotation.access.is_present(&visitor) {
            return Err(Problem::new(ProblemCode::Unauthorized, "the token was rotated; this takes the new one"));
        }
        let path = file.path.display().to_string();
        let made = tokio::task::spawn_blocking(move || file.renew()).await.map_err(io::Error::other);
        let token = made.and_then(|made| made).map_err(|error| {
            Problem::new(ProblemCode::Internal, format!("{path} cannot be written, the token is as it was: {error}"))
        })?;
        rotation.access.renew(&token, grace);
        tracing::info!(grace_ms = grace.as_millis(), "the token was rotated");
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let until = rotation.handle.context().clock.now().plus_ms(i64::try_from(grace_ms).unwrap_or(i64::MAX));
        Ok(json(StatusCode::OK, &RotatedView { token_path: path, grace_ms, old_until: until }))
    });
    rotated.await.map_err(|error| Problem::new(ProblemCode::Internal, format!("the rotation failed: {error}")))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_is_made_once_for_this_user_alone_and_a_new_one_takes_its_place() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = TokenFile { path: dir.path().join("token"), grace: Duration::ZERO };
        let (first, again) = (file.read_or_make().expect("makes"), file.read_or_make().expect("reads"));
        assert_eq!((&first, first.len()), (&again, 2 * TOKEN_BYTES));
        // Whatever somebody left where the new one is written.
        let part = dir.path().join("token.part");
        std::fs::write(&part, "left").expect("writes");
        std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o666)).expect("mode");
        let second = file.renew().expect("renews");
        assert_ne!(first, second);
        assert_eq!(file.read_or_make().expect("reads"), second);
        assert_eq!(std::fs::metadata(&file.path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert!(!part.exists());
        std::fs::write(&file.path, "short\n").expect("writes");
        assert!(file.read_or_make().expect_err("is no token").to_string().contains("too short"));
    }
}
