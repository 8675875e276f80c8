//! A new credential for an MQTT session that is open: the same principal, the same service, no wider proof.

use std::time::Instant;

use drawbridge_identity::{NoncePurpose, NotProven, Refusal};
use drawbridge_names::{MqttClientId, RegistryName, Uid};

use crate::connect::{ConnectRequest, Connected, Credential, Proof, Verdict};
use crate::registries::Realm;
use crate::seen::Seen;
use crate::ways::{ACE_METHOD, TOKEN_METHODS, TlsFacts, Way, Ways, judge_way};
use crate::{Admission, Challenged, Peer};

/// A session that is open, and what came to renew it.
#[derive(Clone, Copy)]
pub struct SessionRenewal<'a> {
    /// The registry of the session.
    pub registry: &'a RegistryName,
    /// Whose it is.
    pub uid: Uid,
    /// The client id that it is kept under.
    pub client_id: &'a MqttClientId,
    /// Whether it was opened with a proof of possession: then it is renewed only with one.
    pub proven: bool,
    /// The access token in force ([`crate::TokenMark::token`]), if one is.
    pub token: Option<[u8; 16]>,
    /// 4 (3.1.1) or 5.
    pub version: u8,
    /// What came.
    pub credential: NewCredential<'a>,
    /// Whether the channel is encrypted and the server authenticated.
    pub confidential: bool,
    /// What TLS says of the connection.
    pub tls: Option<&'a TlsFacts>,
    /// The ways in that its listener allows: no renewal by another.
    pub ways: Ways,
    /// Where the connection comes from.
    pub peer: Peer,
}

/// What came to renew a session.
#[derive(Clone, Copy)]
pub enum NewCredential<'a> {
    /// By AUTH of MQTT 5.
    Method {
        /// Authentication Method.
        method: &'a str,
        /// Authentication Data.
        data: &'a [u8],
        /// The second step: what was asked, and the answer.
        challenged: Option<Challenged<'a>>,
    },
    /// A token or an assertion, and perhaps a line end and a proof behind it.
    Token(&'a [u8]),
}

impl std::fmt::Debug for SessionRenewal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionRenewal")
            .field("registry", &self.registry)
            .field("client_id", &self.client_id)
            .field("proven", &self.proven)
            .finish_non_exhaustive()
    }
}

impl Admission {
    /// Judges what came to renew a session.
    ///
    /// # Errors
    /// [`Refusal`]: as for a CONNECT; or the token is another principal's, the one in force already, a gateway's, or
    /// not bound where the session is.
    pub async fn renew_session(&self, session: SessionRenewal<'_>) -> Result<Verdict, Refusal> {
        let judged = self.judge_renewal(&session);
        let verdict = self.decide("renew", Some(session.registry), session.peer, judged).await?;
        if let Verdict::Connected(connected) = &verdict {
            self.tally_admitted("renew", &connected.registry, connected.kind, &connected.name);
        }
        Ok(verdict)
    }

    /// A nonce for the assertion that renews a session.
    #[must_use]
    pub fn renewal_nonce(&self, registry: &RegistryName) -> Option<String> {
        self.challenge(registry, NoncePurpose::Assertion).ok().map(|challenge| challenge.nonce)
    }

    async fn judge_renewal(&self, session: &SessionRenewal<'_>) -> Result<Verdict, Refusal> {
        if !session.confidential {
            return Err(Refusal::NotConfidential);
        }
        let token = match session.credential {
            NewCredential::Method { method: ACE_METHOD, .. } => return self.renew_by_ace(session).await,
            NewCredential::Method { method, data, .. } if TOKEN_METHODS.contains(&method) => data,
            NewCredential::Method { .. } => return Err(Refusal::AuthMethod),
            NewCredential::Token(payload) => payload,
        };
        let mut lines = token.splitn(2, |byte| *byte == b'\n');
        let token = lines.next().unwrap_or_default();
        let proof_line = lines.next().map(|line| line.strip_suffix(b"\n").unwrap_or(line));
        let request = self.as_connect(session, token);
        let way = match (request.way()?, session.credential) {
            (Way::DeviceJwt | Way::AccessToken, NewCredential::Method { .. }) => Way::TokenMethod,
            (way @ (Way::DeviceJwt | Way::AccessToken), NewCredential::Token(_)) => way,
            _ => return Err(Refusal::NotProven(NotProven::UnknownToken)),
        };
        let (realm, proof) = self.prove_by_token(&request, proof_line).await?;
        judge_way(&realm, &proof.loaded.principal, proof.way_of(way))?;
        self.renewed_by(session, &realm, proof).await.map(Verdict::connected)
    }

    /// The renewal as if it were a CONNECT with that token.
    pub(crate) fn as_connect<'a>(&self, session: &SessionRenewal<'a>, token: &'a [u8]) -> ConnectRequest<'a> {
        ConnectRequest {
            listener_registry: Some(session.registry),
            client_id: session.client_id,
            username: None,
            password: Some(token),
            confidential: session.confidential,
            anonymous_as: None,
            peer: session.peer,
            version: session.version,
            method: None,
            data: None,
            challenged: None,
            tls: session.tls,
            ways: session.ways,
        }
    }

    /// What every renewal asks of a proof; then as for a CONNECT.
    pub(crate) async fn renewed_by(
        &self,
        session: &SessionRenewal<'_>,
        realm: &Realm,
        proof: Proof,
    ) -> Result<Connected, Refusal> {
        self.charge_principal(&realm.record.name, proof.loaded.principal.uid, session.peer)?;
        let same = (&realm.record.name, proof.loaded.principal.uid) == (session.registry, session.uid);
        if !same {
            return Err(Refusal::Renewal(
                "this is another principal's credential; renew with your own".to_owned(),
            ));
        }
        if proof.gateway.is_some() {
            return Err(Refusal::Renewal(
                "a token of a gateway renews no session; connect anew with it".to_owned(),
            ));
        }
        if proof.token.as_ref().is_some_and(|mark| Some(mark.token) == session.token) {
            return Err(Refusal::Renewal("this token is in force already; get a new one first".to_owned()));
        }
        if session.proven && !proof.proven {
            return Err(Refusal::Binding(
                "the session was opened with a proof of possession; renew it with a bound token and its proof"
                    .to_owned(),
            ));
        }
        let path = crate::client_id::GooglePath::parse(session.client_id.as_str());
        let path = path.filter(|path| path.registry == realm.record.name.as_str());
        let way = match session.credential {
            NewCredential::Method { method, .. } if method == ACE_METHOD => Some(Way::Ace),
            _ => None,
        };
        self.admit(realm, proof, Seen::of(&self.as_connect(session, b""), way), path).await
    }
}

impl Connected {
    /// How long from `now` on it is good, in seconds; `None`: it has no end of its own.
    #[must_use]
    pub fn left_s(&self, now: Instant) -> Option<u64> {
        self.ends.map(|ends| ends.saturating_duration_since(now).as_secs())
    }
}

impl Credential {
    /// Whether a session can be renewed by it.
    pub(crate) fn is_token(self) -> bool {
        matches!(self, Self::Jwt | Self::OpaqueToken)
    }
}
