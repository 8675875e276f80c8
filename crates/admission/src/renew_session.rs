//! A new credential for an MQTT session that is open: the same principal, the same service, no wider proof.

use std::time::Instant;

use drawbridge_identity::{NoncePurpose, NotProven, Refusal};
use drawbridge_names::{KeyId, MqttClientId, PrincipalName, RegistryName, TopicFilter, Uid};

use crate::admin_token::ADMIN_TOKEN_PREFIX;
use crate::binding::Presentation;
use crate::connect::{ConnectRequest, Connected, Credential, Proof, Verdict};
use crate::registries::Realm;
use crate::seen::{Seen, claims_of};
use crate::tokens::ReadToken;
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

/// What became of a session that was given a new right from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Its subscriptions that the new right does not cover, and that were cut.
    pub removed: Vec<TopicFilter>,
    /// Whether its will was dropped, because it may not speak any more.
    pub will_dropped: bool,
}

/// A session that was renewed over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshedSession {
    /// Its client id.
    pub client_id: MqttClientId,
    /// When it ends now, in ms since 1970-01-01 UTC; `None`: it has no end of its own.
    pub ends_ms: Option<u64>,
    /// What it has lost.
    pub refreshed: Refreshed,
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

    /// A session has been renewed by this key: if it has replaced another, the grace of that ends, as with a login.
    pub async fn settle_key(&self, registry: &RegistryName, name: &PrincipalName, kid: &KeyId) {
        if let Ok(Some(loaded)) = self.candidate(registry, Some(name)).await {
            self.end_grace(&loaded, kid).await;
        }
    }

    /// A nonce for the assertion that renews a session.
    #[must_use]
    pub fn renewal_nonce(&self, registry: &RegistryName) -> Option<String> {
        self.challenge(registry, NoncePurpose::Assertion).ok().map(|challenge| challenge.nonce)
    }

    /// Gives the open sessions of a principal the right of a new access token for the bridge, which came over HTTPS:
    /// that with `client_id`, or all. Answers those that were renewed; none, when none is open.
    ///
    /// # Errors
    /// [`Refusal`]: the token is not good for it, or came without the proof that it is bound to; or no session took
    /// it, for the reason of the first.
    pub async fn refresh_sessions(
        &self,
        registry: &RegistryName,
        token: &str,
        presentation: &Presentation<'_>,
        client_id: Option<&MqttClientId>,
        peer: Peer,
    ) -> Result<Vec<RefreshedSession>, Refusal> {
        let judged = self.judge_refresh(registry, token, presentation, client_id, peer);
        self.decide("refresh", Some(registry), peer, judged).await
    }

    async fn judge_refresh(
        &self,
        registry: &RegistryName,
        token: &str,
        presentation: &Presentation<'_>,
        client_id: Option<&MqttClientId>,
        peer: Peer,
    ) -> Result<Vec<RefreshedSession>, Refusal> {
        if token.starts_with(ADMIN_TOKEN_PREFIX) {
            return Err(Refusal::NotProven(NotProven::UnknownToken));
        }
        let bytes_max = self.inner.config.http_token_bytes_max;
        let ReadToken { realm, claims, mark, .. } = self.read_token(Some(registry), token, bytes_max).await?;
        if claims.audience != realm.record.bridge_audience {
            return Err(Refusal::OtherService);
        }
        let loaded = self.standing(&realm, &claims).await?;
        self.judge_presentation(&realm, &loaded, &claims, token, presentation)?;
        if claims.actor.is_some() {
            return Err(Refusal::Renewal(
                "a token of a gateway renews no session; connect anew with it".to_owned(),
            ));
        }
        judge_way(&realm, &loaded.principal, Way::AccessToken)?;
        let uid = loaded.principal.uid;
        self.charge_principal(&realm.record.name, uid, peer)?;
        let (mut renewed, mut first_refusal) = (Vec::new(), None);
        for (watcher, live) in self.sessions_of(&realm.record.name, uid) {
            if client_id.is_some_and(|wanted| *wanted != live) {
                continue;
            }
            let proof = Proof {
                scope: claims.scope.clone(),
                claims: Some(claims_of(&claims)),
                kid: claims.akid.clone(),
                ends_s: Some(claims.expires_s),
                token: Some(mark.clone()),
                proven: claims.confirmation.is_some(),
                ..Proof::of(std::sync::Arc::clone(&loaded))
            };
            let path = crate::client_id::GooglePath::parse(live.as_str());
            let path = path.filter(|path| path.registry == realm.record.name.as_str());
            let outcome = match self.admit(&realm, proof, Seen::elsewhere(&live), path).await {
                Ok(connected) => {
                    let ends_ms = connected.ends_ms;
                    watcher.refresh(Box::new(connected)).await.map(|refreshed| (ends_ms, refreshed))
                }
                Err(refusal) => Err(refusal),
            };
            match outcome {
                Ok((ends_ms, refreshed)) => {
                    renewed.push(RefreshedSession { client_id: live, ends_ms, refreshed });
                }
                Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
            }
        }
        match first_refusal {
            Some(refusal) if renewed.is_empty() => Err(refusal),
            _ => Ok(renewed),
        }
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
            renews: true,
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
