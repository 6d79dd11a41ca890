//! What a browser shows once somebody signed in: a cookie, and beside it a key that the page sends itself. Both are needed.
//! Cookies know no ports, so whoever serves a page on another port of this machine is sent the cookie; the key is in the
//! page's own storage, and in a header no form can send.
//!
//! Nothing is kept: both are signed with the daemon's token. So they outlive the daemon, and a new token ends them all.

use std::fmt;
use std::io;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use warp::http::{HeaderMap, header};

use super::only;
use crate::actors::inputs::hex;
use crate::model::time::Timestamp;

/// How long a browser stays signed in.
pub const SIGNED_FOR_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// The header the page sends its key in.
pub const KEY_HEADER: &str = "x-slugline-key";
/// The form of the cookie, so that a later one can be told from it.
const VERSION: &str = "v1";
/// Bytes that make one sign-in differ from the next.
const NONCE_BYTES: usize = 16;

/// Signs browsers in, and knows them again.
#[derive(Clone)]
pub struct Signer {
    /// Made with the daemon's token; everything is signed with a copy of it.
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

/// What one sign-in gives.
pub struct Signed {
    /// The cookie's value.
    pub cookie: String,
    /// What the page keeps.
    pub key: String,
    /// From then on neither is worth anything.
    pub expires_at: Timestamp,
}

impl Signer {
    /// Signs with this token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self { keyed: Hmac::new_from_slice(token.as_bytes()).expect("HMAC takes keys of any length") }
    }

    /// Signs a browser in that comes now.
    pub fn sign(&self, now: Timestamp) -> io::Result<Signed> {
        let nonce = random::<NONCE_BYTES>()?;
        Ok(self.signed(now.plus_ms(SIGNED_FOR_MS).as_ms().div_euclid(1_000), &hex(&nonce)))
    }

    fn signed(&self, expires: i64, nonce: &str) -> Signed {
        let made = |what| hex(&self.mac(what, expires, nonce).finalize().into_bytes());
        Signed {
            cookie: format!("{VERSION}.{expires}.{nonce}.{}", made(Half::Cookie)),
            key: made(Half::Key),
            expires_at: Timestamp::from_ms(expires.saturating_mul(1_000)),
        }
    }

    fn mac(&self, half: Half, expires: i64, nonce: &str) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        let what: &[u8] = match half {
            Half::Cookie => b"cookie\0",
            Half::Key => b"key\0",
        };
        mac.update(what);
        mac.update(expires.to_string().as_bytes());
        mac.update(b"\0");
        mac.update(nonce.as_bytes());
        mac
    }

    /// Whether a request comes from a browser that is signed in. Of several cookies of the name one has to fit: whoever
    /// serves another port can add one, and shall not lock anybody out with it.
    #[must_use]
    pub fn knows(&self, headers: &HeaderMap, port: u16, now: Timestamp) -> bool {
        let Some(key) = key_of(headers) else { return false };
        cookies_of(headers, &cookie_name(port)).any(|cookie| self.fits(cookie, &key, now))
    }

    /// Whether cookie and key are of one sign-in that is not over. What is compared is compared in constant time.
    fn fits(&self, cookie: &str, key: &[u8], now: Timestamp) -> bool {
        let Some(Shown { expires, nonce, mac }) = Shown::parse(cookie) else { return false };
        let signed = self.mac(Half::Cookie, expires, nonce).verify_slice(&mac).is_ok();
        let keyed = self.mac(Half::Key, expires, nonce).verify_slice(key).is_ok();
        signed && keyed && now.as_ms() < expires.saturating_mul(1_000)
    }
}

#[derive(Clone, Copy)]
enum Half {
    Cookie,
    Key,
}

/// The parts of a cookie's value.
struct Shown<'a> {
    expires: i64,
    nonce: &'a str,
    mac: Vec<u8>,
}

impl<'a> Shown<'a> {
    fn parse(cookie: &'a str) -> Option<Self> {
        let mut parts = cookie.split('.');
        let (version, expires, nonce, mac) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != VERSION || parts.next().is_some() {
            return None;
        }
        // One spelling: what is signed is the number, so "+1" and "01" would be signed like "1".
        let expires: i64 = expires.parse().ok().filter(|number: &i64| number.to_string() == expires)?;
        unhex(nonce).filter(|nonce| nonce.len() == NONCE_BYTES)?;
        Some(Self { expires, nonce, mac: unhex(mac)? })
    }
}

/// The bytes of lowercase hexadecimal digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>();
    bytes.filter(|_| rest.is_empty())
}

/// The one key a request has.
fn key_of(headers: &HeaderMap) -> Option<Vec<u8>> {
    only(headers, KEY_HEADER)?.to_str().ok().and_then(unhex)
}

/// The values of all cookies of a name.
fn cookies_of<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(given, _)| given.trim() == name).map(|(_, value)| value.trim())
}

/// Cookies know no ports, so the port is in the name: two daemons on one machine do not sign each other out.
fn cookie_name(port: u16) -> String {
    format!("slugline_{port}")
}

/// `Set-Cookie` of somebody who signed in.
#[must_use]
pub fn set_cookie(port: u16, signed: &Signed) -> String {
    let seconds = SIGNED_FOR_MS / 1_000;
    format!("{}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}", cookie_name(port), signed.cookie)
}

/// `Set-Cookie` of somebody who signed out.
#[must_use]
pub fn clear_cookie(port: u16) -> String {
    format!("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", cookie_name(port))
}

/// Bytes nobody can guess.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got == N { Ok(bytes) } else { Err(io::Error::other("the system gave too few random numbers")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 7584;
    const NOW: Timestamp = Timestamp::from_ms(1_772_150_400_123);

    fn headers(cookies: &[&str], keys: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, cookie.parse().expect("header"));
        }
        for key in keys {
            headers.append(KEY_HEADER, key.parse().expect("header"));
        }
        headers
    }

    fn named(cookie: &str) -> String {
        format!("slugline_{PORT}={cookie}")
    }

    #[test]
    fn a_sign_in_is_known_until_it_is_over_by_whoever_has_the_token() {
        let signer = Signer::new("secret");
        let signed = signer.sign(NOW).expect("signs");
        let shown = headers(&[&named(&signed.cookie)], &[&signed.key]);
        assert!(signer.knows(&shown, PORT, NOW));
        assert!(Signer::new("secret").knows(&shown, PORT, NOW), "the next daemon has the same token");
        assert!(!Signer::new("secre").knows(&shown, PORT, NOW));
        assert!(signer.knows(&shown, PORT, signed.expires_at.plus_ms(-1)));
        assert!(!signer.knows(&shown, PORT, signed.expires_at));
        let kept_for = signed.expires_at.as_ms() - NOW.as_ms();
        assert!((SIGNED_FOR_MS - 1_000..=SIGNED_FOR_MS).contains(&kept_for), "{kept_for}");
        assert_ne!(signer.sign(NOW).expect("signs").cookie, signed.cookie);
        assert!(!format!("{signer:?}").contains("secret"));
    }

    #[test]
    fn the_cookie_is_nothing_without_the_key_and_the_key_nothing_without_the_cookie() {
        let signer = Signer::new("secret");
        let (one, other) = (signer.sign(NOW).expect("signs"), signer.sign(NOW).expect("signs"));
        let (cookie, stranger) = (named(&one.cookie), Signer::new("other").sign(NOW).expect("signs"));
        let mac = one.cookie.rsplit('.').next().expect("a mac");
        let refused: [(&[&str], &[&str]); 10] = [
            (&[], &[]),
            (&[&cookie], &[]),
            (&[], &[&one.key]),
            (&[&cookie], &[&other.key]),
            (&[&cookie], &[&stranger.key]),
            (&[&named(&stranger.cookie)], &[&stranger.key]),
            // What is in the cookie is not what the page has.
            (&[&cookie], &[mac]),
            (&[&cookie], &[&one.cookie]),
            (&[&cookie], &[&one.key, &one.key]),
            (&[&format!("slugline_80={}", one.cookie)], &[&one.key]),
        ];
        for (cookies, keys) in refused {
            assert!(!signer.knows(&headers(cookies, keys), PORT, NOW), "{cookies:?} {keys:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_and_one_of_the_same_name_keeps_nobody_out() {
        let signer = Signer::new("secret");
        let signed = signer.sign(NOW).expect("signs");
        let ours = named(&signed.cookie);
        let lines: [&[&str]; 5] = [
            &[&format!("theme=dark; {ours}; slugline_80=x")],
            &["theme=dark", &ours],
            &[&format!("slugline_{PORT}=planted; {ours}")],
            &[&format!("{ours};slugline_{PORT}=")],
            &["=; ;;=x", &ours],
        ];
        for cookies in lines {
            assert!(signer.knows(&headers(cookies, &[&signed.key]), PORT, NOW), "{cookies:?}");
        }
    }

    #[test]
    fn what_is_not_exactly_a_cookie_of_ours_is_none() {
        let signer = Signer::new("secret");
        let seconds = NOW.as_ms() / 1_000 + 60;
        let nonce = "00112233445566778899aabbccddeeff";
        let Signed { cookie, key, .. } = signer.signed(seconds, nonce);
        let known = |cookie: &str| signer.knows(&headers(&[&named(cookie)], &[&key]), PORT, NOW);
        assert!(known(&cookie));
        let mac = cookie.rsplit('.').next().expect("a mac");
        let later = seconds + 1;
        for garbled in [
            String::new(),
            "v1".to_owned(),
            "v1...".to_owned(),
            cookie.replace("v1.", "v2."),
            format!("{cookie}.x"),
            format!("{cookie}0"),
            cookie[..cookie.len() - 1].to_owned(),
            cookie.to_uppercase(),
            format!("v1.+{seconds}.{nonce}.{mac}"),
            format!("v1.0{seconds}.{nonce}.{mac}"),
            format!("v1.{later}.{nonce}.{mac}"),
            format!("v1.-1.{nonce}.{mac}"),
            format!("v1.99999999999999999999999.{nonce}.{mac}"),
            format!("v1.{seconds}.{}.{mac}", nonce.replace("00", "01")),
            format!("v1.{seconds}.{nonce}."),
            format!("v1.{seconds}.{nonce}.zz"),
            format!("\"{cookie}\""),
        ] {
            assert!(!known(&garbled), "{garbled}");
        }
        for key in ["", "zz", "é", &key[..62], &key.to_uppercase()] {
            let shown = headers(&[&named(&cookie)], &[]);
            let mut shown = shown;
            shown.extend(
                warp::http::HeaderValue::from_bytes(key.as_bytes())
                    .ok()
                    .map(|value| (warp::http::HeaderName::from_static(KEY_HEADER), value)),
            );
            assert!(!signer.knows(&shown, PORT, NOW), "{key}");
        }
    }

    #[test]
    fn hexadecimal_is_read_in_one_spelling() {
        assert_eq!(unhex("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!(unhex(""), Some(Vec::new()));
        for odd in ["0", "0g", "FF", "é", "0 "] {
            assert_eq!(unhex(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_cookie_is_the_browsers_alone_and_goes_when_it_is_cleared() {
        let signed = Signer::new("secret").signed(60, "00112233445566778899aabbccddeeff");
        let set = set_cookie(PORT, &signed);
        assert_eq!(set, format!("slugline_7584={}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000", signed.cookie));
        assert_eq!(clear_cookie(PORT), "slugline_7584=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    }
}
