//! MQTT CONNECT: from a client id, user name and password to a principal and its rights.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_identity::{
    AccessToken, Asserted, Candidate, Confirmation, ConnectJwt, ConnectRules, NotProven, Refusal,
};
use drawbridge_jose::{Verify, base64url_decode};
use drawbridge_names::{
    Epoch, KeyId, MqttClientId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid,
};
use drawbridge_policy::{Connection, IssuerClaims, Rights, VerifiedCertificate};

use crate::admin_token::{ADMIN_TOKEN_PREFIX, OPAQUE_TOKEN_PREFIX};
use crate::bearer::narrowed;
use crate::cache::{Generation, Loaded, Stamp};
use crate::client_id::{GooglePath, effective, named_device};
use crate::handshake::VouchingCa;
use crate::issue::judge_state;
use crate::registries::Realm;
use crate::seen::{Seen, claims_of};
use crate::tokens::{ReadToken, TokenMark};
use crate::ways::{PeerProof, TlsFacts, Way, Ways, judge_way};
use crate::{Admission, Peer};

/// A device has one live session unless its policy says more.
const DEVICE_SESSIONS_MAX: u32 = 1;

/// What a CONNECT brings.
#[derive(Clone, Copy)]
pub struct ConnectRequest<'a> {
    /// The registry of the listener or of the SNI name, if that is set.
    pub listener_registry: Option<&'a RegistryName>,
    /// The client id as it stands in the packet.
    pub client_id: &'a MqttClientId,
    /// The user name. Beside a token it means nothing; some clients send `unused`, or nothing.
    pub username: Option<&'a str>,
    /// The password: a JWT, a token, or a password.
    pub password: Option<&'a [u8]>,
    /// Whether the channel is encrypted and the server authenticated. `false`: no credential is taken.
    pub confidential: bool,
    /// The application whose rights a client without any credential gets, on the one listener where
    /// that is switched on.
    pub anonymous_as: Option<&'a PrincipalName>,
    /// Where the connection comes from.
    pub peer: Peer,
    /// 4 (3.1.1) or 5.
    pub version: u8,
    /// Authentication Method, in MQTT 5.
    pub method: Option<&'a str>,
    /// Authentication Data, in MQTT 5.
    pub data: Option<&'a [u8]>,
    /// What was asked of the client since ([`Verdict::Challenge`]), and its answer.
    pub challenged: Option<Challenged<'a>>,
    /// What TLS says of the connection; `None` without TLS of our own.
    pub tls: Option<&'a TlsFacts>,
    /// The ways in that the listener allows.
    pub ways: Ways,
    /// Whether a session that is open is to be renewed: what is the same for the whole connection shows nothing new
    /// then.
    pub renews: bool,
}

/// A challenge, and what the client answered.
#[derive(Clone, Copy)]
pub struct Challenged<'a> {
    /// Ours.
    pub challenge: &'a [u8],
    /// Authentication Data of the client's AUTH.
    pub answer: &'a [u8],
}

impl std::fmt::Debug for ConnectRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("client_id", &self.client_id)
            .field("has_username", &self.username.is_some())
            .field("has_password", &self.password.is_some())
            .field("method", &self.method)
            .field("confidential", &self.confidential)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A client that is let in.
#[derive(Debug, Clone)]
pub struct Connected {
    /// Its registry.
    pub registry: RegistryName,
    /// The number of its principal.
    pub uid: Uid,
    /// The name of its principal.
    pub name: PrincipalName,
    /// What that is.
    pub kind: PrincipalKind,
    /// The client id its session is kept under.
    pub client_id: MqttClientId,
    /// Whether that was made here, because the client left the choice to the server.
    pub assigned_client_id: bool,
    /// What it may do.
    pub rights: Arc<Rights>,
    /// The policy attached to its principal, for [`crate::SessionsEnd::Policy`].
    pub policy: Option<PolicyName>,
    /// When the session must end, in ms since 1970-01-01 UTC; `None`: it has no end of its own.
    pub ends_ms: Option<u64>,
    /// The same on the clock that only runs forward, computed once: a jump of the wall clock ends nothing.
    pub ends: Option<Instant>,
    /// The key that opened it, for [`crate::SessionsEnd::Key`]; `None` for an anonymous client, and after a
    /// login by a password or secret.
    pub kid: Option<KeyId>,
    /// The epoch of its principal.
    pub epoch: Epoch,
    /// The access token that opened it, if one did: for [`crate::SessionsEnd::Token`] and its like.
    pub token: Option<TokenMark>,
    /// How many live sessions the principal may have; `None`: any number.
    pub sessions_max: Option<u32>,
    /// The client id is a Google path: its topics have a leading slash.
    pub leading_slash: bool,
    /// Whether the client has proven, in this very connection, to hold the key that its credential is bound to.
    pub proven: bool,
    /// A renewal by a key whose first use may end another: [`Admission::settle_key`] is to be called when the
    /// session has its new right.
    pub settles_key: bool,
    /// The CA that vouched for the certificate that opened it: SHA-256 in base64url, for [`crate::SessionsEnd::Ca`].
    pub ca: Option<KeyId>,
    /// When the CAs were read.
    ca_stamp: Option<Stamp>,
    generation: Generation,
    /// Of the gateway that acts for the principal.
    gateway_generation: Option<Generation>,
}

/// How a CONNECT, or a renewal, stands.
#[derive(Debug)]
pub enum Verdict {
    /// Let it in.
    Connected(Box<Connected>),
    /// Ask the client this first, and come again with its answer as [`ConnectRequest::challenged`].
    Challenge(Vec<u8>),
    /// It brings no credential: it may publish tokens ([`Admission::authz_info`]) and nothing else, and is nobody.
    AuthzInfo {
        /// The client id that was made here, because it left the choice to the server.
        assigned: Option<MqttClientId>,
    },
}

impl Verdict {
    pub(crate) fn connected(connected: Connected) -> Self {
        Self::Connected(Box::new(connected))
    }

    /// The client, if it is let in.
    #[must_use]
    pub fn into_connected(self) -> Option<Connected> {
        match self {
            Self::Connected(connected) => Some(*connected),
            Self::Challenge(_) | Self::AuthzInfo { .. } => None,
        }
    }
}

/// What was proven, before the client id is judged.
pub(crate) struct Proof {
    pub(crate) loaded: Arc<Loaded>,
    /// The grant of an access token, if it carries one.
    pub(crate) scope: Option<String>,
    /// What else a token says, signed by its issuer.
    pub(crate) claims: Option<IssuerClaims>,
    pub(crate) kid: Option<KeyId>,
    /// `None`: it has no end of its own.
    pub(crate) ends_s: Option<u64>,
    /// To be used up once everything else is good.
    pub(crate) once: Option<Asserted>,
    pub(crate) token: Option<TokenMark>,
    pub(crate) gateway: Option<Arc<Loaded>>,
    /// See [`Connected::proven`].
    pub(crate) proven: bool,
    /// The credential is bound to the very key of the TLS handshake, and so says itself whose that is.
    pub(crate) names_handshake: bool,
    /// What the certificate says for which a CA has vouched.
    pub(crate) certificate: Option<VerifiedCertificate>,
    /// That CA.
    pub(crate) ca: Option<VouchingCa>,
}

impl Proof {
    /// By a credential without scope, end or use of its own.
    pub(crate) fn of(loaded: Arc<Loaded>) -> Self {
        Self {
            loaded,
            scope: None,
            claims: None,
            kid: None,
            ends_s: None,
            once: None,
            token: None,
            gateway: None,
            proven: false,
            names_handshake: false,
            certificate: None,
            ca: None,
        }
    }

    /// Of a JWT only its signature tells whether it is a device's own or a token.
    pub(crate) fn way_of(&self, way: Way) -> Way {
        match way {
            Way::DeviceJwt if self.token.is_some() => Way::AccessToken,
            way => way,
        }
    }
}

/// What a proof of a new token signs, before the value of the exporter.
const REFRESH_CONTEXT: &[u8] = b"db-refresh-1\0";

impl Admission {
    /// Judges a CONNECT, or the answer to what was asked after it.
    ///
    /// # Errors
    /// [`Refusal`]; to the peer all that lies before a good signature is one answer.
    pub async fn connect(&self, request: ConnectRequest<'_>) -> Result<Verdict, Refusal> {
        if request.is_for_authz_info() {
            return self.let_in_for_authz_info(&request);
        }
        let judged = self.judge_connect(&request);
        let verdict = self.decide("connect", request.listener_registry, request.peer, judged).await?;
        if let Verdict::Connected(connected) = &verdict {
            self.tally_admitted("connect", &connected.registry, connected.kind, &connected.name);
        }
        Ok(verdict)
    }

    /// Whether nothing has changed since `connected` was answered: not its principal, its keys, its
    /// policy or its token. To be asked once, in the step that installs the session: what a [`crate::Watcher`] hears
    /// from then on must reach the session after that step. `false`: refuse, and let the client come
    /// again. Cheap: it reads a few counters.
    #[must_use]
    pub fn still_good(&self, connected: &Connected) -> bool {
        let stands = |token: &TokenMark| {
            self.realm(&connected.registry).is_some_and(|realm| {
                !realm.revoked.contains(&token.token)
                    && token.issuer_kid.as_ref().is_none_or(|kid| realm.keys.knows(kid))
            })
        };
        self.inner.cache.is_current(&connected.generation)
            && connected.ca_stamp.as_ref().is_none_or(|stamp| self.inner.cache.stands(stamp))
            && connected.gateway_generation.as_ref().is_none_or(|of| self.inner.cache.is_current(of))
            && connected.token.as_ref().is_none_or(stands)
    }

    async fn judge_connect(&self, request: &ConnectRequest<'_>) -> Result<Verdict, Refusal> {
        let way = match request.way()? {
            // A token that was published for this key says more of it than the key alone, and is a way of its own. Where
            // the key alone opens nothing, it is the token that is missing.
            by_key @ (Way::Certificate | Way::RawKey)
                if self.has_kept_token(request)
                    || (request.ways.allows(Way::AuthzInfo) && !request.ways.allows(by_key)) =>
            {
                Way::AuthzInfo
            }
            way => way,
        };
        if way == Way::Anonymous {
            let Some(application) = request.anonymous_as else { return Err(Refusal::NoCredential) };
            return self.anonymous(request, application).await.map(Verdict::connected);
        }
        if !request.confidential {
            return Err(Refusal::NotConfidential);
        }
        let (realm, proof) = match way {
            Way::Ace => return self.connect_by_ace(request).await,
            Way::AceUserName => self.prove_by_ace_user_name(request).await?,
            Way::DeviceJwt | Way::AccessToken => self.prove_by_token(request, None).await?,
            Way::TokenMethod => {
                request.allows(way)?;
                // Two dots or a prefix of ours: anything else is no token, and no password either.
                let token = request.data.filter(|data| Credential::of(data).is_token());
                let token = token.ok_or(Refusal::NotProven(NotProven::UnknownToken))?;
                let request = ConnectRequest { password: Some(token), ..*request };
                self.prove_by_token(&request, None).await?
            }
            Way::Password => {
                request.allows(way)?;
                self.prove_by_password(request).await?
            }
            Way::AuthzInfo => self.prove_by_kept_token(request).await?,
            Way::Certificate | Way::RawKey => {
                request.allows(way)?;
                self.prove_by_handshake(request).await?
            }
            Way::Anonymous => return Err(Refusal::NoCredential),
        };
        if !matches!(way, Way::Certificate | Way::RawKey) {
            self.judge_beside(&realm, request, &proof).await?;
        }
        judge_way(&realm, &proof.loaded.principal, proof.way_of(way))?;
        self.charge_principal(&realm.record.name, proof.loaded.principal.uid, request.peer)?;
        let path = GooglePath::parse(request.client_id.as_str());
        let path = path.filter(|path| {
            path.registry == realm.record.name.as_str() && self.realm_of_path(*path).is_some()
        });
        self.admit(&realm, proof, Seen::of(request, Some(way)), path).await.map(Verdict::connected)
    }

    /// A device JWT or an access token, in the place of a password. `proof_line`: of the key that the token is bound
    /// to, in a renewal.
    pub(crate) async fn prove_by_token(
        &self,
        request: &ConnectRequest<'_>,
        proof_line: Option<&[u8]>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        let token = request.password.unwrap_or_default();
        if Credential::of(token) == Credential::OpaqueToken {
            request.allows(Way::AccessToken)?;
            return self.prove_by_opaque(request, token, proof_line).await;
        }
        let bytes_max = self.inner.config.bridge_token_bytes_max;
        let path = GooglePath::parse(request.client_id.as_str());
        let path_realm = path.and_then(|path| self.realm_of_path(path));
        match ConnectJwt::parse(token, bytes_max) {
            Ok(token) => {
                request.allows(Way::DeviceJwt)?;
                let realm = match &path_realm {
                    Some(realm) => Arc::clone(realm),
                    None => self.realm_of_device_jwt(&token, request.listener_registry)?,
                };
                let project = path_realm.as_ref().and(path).map(|path| path.project);
                let proof = self.prove_device_jwt(&realm, &token, request, project).await?;
                Ok((realm, proof))
            }
            Err(of_another_type @ Refusal::Type { .. }) => {
                request.allows(Way::AccessToken)?;
                let token = AccessToken::parse(token, bytes_max).map_err(|refusal| match refusal {
                    Refusal::Type { .. } => of_another_type,
                    other => other,
                })?;
                let issuer = token.issuer().and_then(|issuer| self.realm_of_issuer(issuer));
                let realm = issuer.ok_or(Refusal::NotProven(NotProven::UnknownIssuer))?;
                if path_realm.as_ref().is_some_and(|wanted| wanted.record.name != realm.record.name) {
                    return Err(Refusal::NotProven(NotProven::UnknownIssuer));
                }
                let read = self.read_signed(None, &token)?;
                let proof = self.prove_access_token(request, read, proof_line).await?;
                Ok((realm, proof))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The user name is the principal's name. A session by password has no end of its own: it ends with the
    /// password, a block, a revocation.
    async fn prove_by_password(&self, request: &ConnectRequest<'_>) -> Result<(Arc<Realm>, Proof), Refusal> {
        let realm = self.realm_of_request(request)?;
        let name = request.username.and_then(|name| PrincipalName::parse(name).ok());
        let loaded = self.candidate(&realm.record.name, name.as_ref()).await?;
        self.verify_secret(loaded.as_deref(), request.password.unwrap_or_default()).await?;
        let loaded = loaded.expect("a password that fits is somebody's");
        Ok((realm, Proof::of(loaded)))
    }

    /// Where nothing else names a registry: that of the Google path, of the listener, or the default one.
    pub(crate) fn realm_of_request(&self, request: &ConnectRequest<'_>) -> Result<Arc<Realm>, Refusal> {
        let path = GooglePath::parse(request.client_id.as_str());
        match (path.and_then(|path| self.realm_of_path(path)), request.listener_registry) {
            (Some(realm), _) => Ok(realm),
            (None, Some(listener)) => self.known_realm(listener),
            (None, None) => self.known_realm(&RegistryName::default_registry()),
        }
    }

    /// The registry that a Google path names, if it stands for that project and location.
    fn realm_of_path(&self, path: GooglePath<'_>) -> Option<Arc<Realm>> {
        let realm = self.realm(&RegistryName::parse(path.registry).ok()?)?;
        let google = realm.record.google.as_ref()?;
        (google.project == path.project && google.location == path.location).then_some(realm)
    }

    fn realm_of_device_jwt(
        &self,
        token: &ConnectJwt<'_>,
        listener: Option<&RegistryName>,
    ) -> Result<Arc<Realm>, Refusal> {
        let by_audience = match token.audiences().as_slice() {
            [one] => self.realm_of_bridge_audience(one),
            _ => None,
        };
        match (by_audience, listener) {
            (Some(realm), _) => Ok(realm),
            (None, Some(listener)) => self.known_realm(listener),
            (None, None) => self.known_realm(&RegistryName::default_registry()),
        }
    }

    async fn prove_device_jwt(
        &self,
        realm: &Realm,
        token: &ConnectJwt<'_>,
        request: &ConnectRequest<'_>,
        project: Option<&str>,
    ) -> Result<Proof, Refusal> {
        let record = &realm.record;
        let claimed = match token.subject() {
            Ok(Some(name)) => Some(name),
            // Google's JWTs have no `sub`: the client id names the device whose key must have signed.
            Ok(None) => named_device(request.client_id),
            Err(_) => None,
        };
        let rules = ConnectRules {
            bridge_audience: &record.bridge_audience,
            project,
            skew_s: record.clock_skew_s.into(),
            life_s_max: self.inner.config.connect_life_s_max.into(),
            clock: crate::challenge::device_clock(record.settings.clock),
            nonces: Some(&realm.nonces),
            channel_binding: request.tls.and_then(|tls| tls.channel_binding.as_ref()),
            renews: request.renews,
        };
        let now_s = self.now_s();
        let verify =
            |candidate: Option<&Candidate<'_>>| token.verify(candidate, &rules, now_s, &self.inner.checker);
        let (loaded, proof) = self.proven(&record.name, claimed.as_ref(), verify).await?;
        self.used(&record.name, &proof.kid);
        let once = proof.once.map(|once| Asserted {
            kid: proof.kid.clone(),
            jti: once.jti,
            token: once.token,
            until_s: Some(once.until_s),
        });
        let (kid, ends_s) = (Some(proof.kid), Some(proof.ends_s));
        Ok(Proof { kid, ends_s, once, proven: proof.bound, ..Proof::of(loaded) })
    }

    /// An opaque token names no registry: the Google path does, or the listener.
    async fn prove_by_opaque(
        &self,
        request: &ConnectRequest<'_>,
        token: &[u8],
        proof_line: Option<&[u8]>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        let path = GooglePath::parse(request.client_id.as_str());
        let path_realm = path.and_then(|path| self.realm_of_path(path));
        let registry = path_realm.as_ref().map(|realm| &realm.record.name).or(request.listener_registry);
        let text = std::str::from_utf8(token).map_err(|_| Refusal::NotProven(NotProven::UnknownToken))?;
        let read = self.read_token(registry, text, self.inner.config.bridge_token_bytes_max).await?;
        let realm = Arc::clone(&read.realm);
        let proof = self.prove_access_token(request, read, proof_line).await?;
        Ok((realm, proof))
    }

    async fn prove_access_token(
        &self,
        request: &ConnectRequest<'_>,
        read: ReadToken,
        proof_line: Option<&[u8]>,
    ) -> Result<Proof, Refusal> {
        let ReadToken { realm, claims, mark, .. } = read;
        if claims.audience != realm.record.bridge_audience {
            return Err(Refusal::OtherService);
        }
        let loaded = self.standing(&realm, &claims).await?;
        let gateway = match &claims.actor {
            Some(actor) => {
                self.note_gateway(actor.uid);
                Some(self.acting(&realm, actor, claims.uid).await?)
            }
            None => None,
        };
        let proven = match &claims.confirmation {
            None => false,
            Some(confirmation) if confirmation.is_for_mqtt() => {
                self.judge_pop_line(request, &realm, &loaded, &claims, proof_line)?;
                true
            }
            Some(confirmation) => {
                self.judge_confirmation(request, &loaded, confirmation, proof_line)?;
                true
            }
        };
        Ok(Proof {
            claims: Some(claims_of(&claims)),
            scope: claims.scope,
            kid: claims.akid,
            ends_s: Some(claims.expires_s),
            token: Some(mark),
            gateway,
            proven,
            names_handshake: matches!(claims.confirmation, Some(Confirmation::Certificate(_))),
            ..Proof::of(loaded)
        })
    }

    /// Whether this connection proves what a token is bound to: its certificate does, or a signature over a value
    /// that this connection alone has, and for this token alone.
    ///
    /// Source: RFC 8705 section 3; the signature is our own.
    fn judge_confirmation(
        &self,
        request: &ConnectRequest<'_>,
        loaded: &Loaded,
        confirmation: &Confirmation,
        proof_line: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        let refuse = |found: &str| Err(Refusal::Binding(found.to_owned()));
        match confirmation {
            Confirmation::Certificate(digest) => {
                let peer = request.tls.and_then(|tls| tls.peer.as_ref());
                let found = match peer {
                    Some(PeerProof::Certificate(certificate)) => certificate.digest(),
                    _ => None,
                };
                match found {
                    Some(found) if found == *digest => Ok(()),
                    Some(_) => {
                        refuse("the connection has another client certificate than the token is bound to")
                    }
                    None => refuse("the token is bound to a certificate, and the connection has none"),
                }
            }
            Confirmation::Key(thumbprint) => {
                let Some(proof) = proof_line else {
                    return refuse(
                        "the token is bound to a key; connect by the method `ace` with a proof by that key, or with \
                         a plain token",
                    );
                };
                let Some(exporter) = request.tls.and_then(|tls| tls.refresh_exporter) else {
                    return refuse("a proof needs TLS that ends at this server");
                };
                let kid = KeyId::parse(thumbprint).ok();
                let key = kid.and_then(|kid| loaded.ring.usable(&kid, self.now_s()));
                let Some(key) = key else { return Err(Refusal::KeyGone) };
                let signature =
                    std::str::from_utf8(proof).ok().and_then(|proof| base64url_decode(proof.trim_end()).ok());
                let signed = [REFRESH_CONTEXT, exporter.as_slice()].concat();
                match signature {
                    Some(signature) if key.public.verify(&signed, &signature).is_ok() => Ok(()),
                    _ => {
                        refuse("the proof is not by the key that the token is bound to, over this connection")
                    }
                }
            }
            Confirmation::PopKey(_) | Confirmation::PopKeyId(_) | Confirmation::Sealed(_) => {
                refuse("the token is bound to a key for the method `ace`; connect by that method")
            }
        }
    }

    /// State, client id, one-time `jti`; then the session's end.
    pub(crate) async fn admit(
        &self,
        realm: &Realm,
        proof: Proof,
        seen: Seen<'_>,
        path: Option<GooglePath<'_>>,
    ) -> Result<Connected, Refusal> {
        let claims = proof.claims.clone();
        let certificate = proof.certificate.clone();
        let Proof { mut loaded, scope, kid, ends_s, once, token, gateway, proven, ca, .. } = proof;
        let registry = &realm.record.name;
        judge_state(&loaded)?;
        judge_bound(realm, &loaded, proven)?;
        let (kind, name) = (loaded.principal.kind, loaded.principal.name.clone());
        let (client_id, assigned_client_id) =
            effective(kind, &name, seen.client_id, path, &*self.inner.random)?;
        if let Some(once) = &once {
            self.use_up(registry, loaded.principal.uid, once).await?;
        }
        let settles_key = seen.renews() && token.is_none() && kid.is_some();
        let used_now = match &kid {
            // The login that gave the token has ended it.
            Some(_) if token.is_some() => false,
            // The session that is renewed was opened by the key that this would end: `settle_key` comes after.
            Some(_) if seen.renews() => false,
            Some(kid) => self.end_grace(&loaded, kid).await,
            None => false,
        };
        if used_now {
            // Ending the grace was a change of this very principal: look again, and take all from there.
            // Rights of before with the generation of now would outlive a policy changed in between.
            let again = self.candidate(registry, Some(&name)).await?;
            let again = again.filter(|again| {
                let (a, b) = (&again.principal, &loaded.principal);
                a.uid == b.uid && !a.blocked && !a.pending && a.epoch == b.epoch
            });
            loaded = again.ok_or(Refusal::KeyGone)?;
        }
        let connection = Connection {
            facts: seen.facts(&client_id, token.is_some()),
            certificate: certificate.as_ref(),
            token: claims.as_ref(),
        };
        let rights = narrowed(loaded.rights_over(&connection), scope.as_deref())?;
        let now_s = self.now_s();
        // No session outlives the key that opened it.
        let key_end_s = match &kid {
            Some(kid) => loaded.ring.usable(kid, now_s).ok_or(Refusal::KeyGone)?.expires_s,
            None => None,
        };
        let ends_s = [ends_s, key_end_s].into_iter().flatten().min();
        let (ends_ms, ends) = ends_s.map(|ends_s| self.deadline(ends_s)).unzip();
        Ok(Connected {
            registry: registry.clone(),
            uid: loaded.principal.uid,
            name,
            kind,
            client_id,
            assigned_client_id,
            rights,
            policy: loaded.principal.policy.clone(),
            ends_ms,
            ends,
            kid,
            epoch: loaded.principal.epoch,
            token,
            gateway_generation: gateway.map(|gateway| gateway.generation),
            sessions_max: (kind == PrincipalKind::Device).then_some(DEVICE_SESSIONS_MAX),
            leading_slash: path.is_some(),
            proven,
            settles_key,
            ca_stamp: ca.as_ref().map(|ca| ca.stamp),
            ca: ca.map(|ca| ca.ca),
            generation: loaded.generation,
        })
    }

    /// A client without any credential, on the listener that lets it in as an application.
    async fn anonymous(
        &self,
        request: &ConnectRequest<'_>,
        application: &PrincipalName,
    ) -> Result<Connected, Refusal> {
        let default = RegistryName::default_registry();
        let realm = self.known_realm(request.listener_registry.unwrap_or(&default))?;
        let loaded = self.candidate(&realm.record.name, Some(application)).await?;
        // It may be registered later; until then, and while it is blocked, nobody gets in.
        let loaded = loaded
            .filter(|loaded| {
                loaded.principal.kind == PrincipalKind::Application
                    && judge_state(loaded).is_ok()
                    && judge_bound(&realm, loaded, false).is_ok()
            })
            .ok_or(Refusal::NoCredential)?;
        let principal = &loaded.principal;
        judge_way(&realm, principal, Way::Anonymous)?;
        let (client_id, assigned_client_id) =
            effective(principal.kind, &principal.name, request.client_id, None, &*self.inner.random)?;
        let facts = Seen::of(request, Some(Way::Anonymous)).facts(&client_id, false);
        let rights = loaded.rights_over(&Connection { facts, ..Connection::default() });
        Ok(Connected {
            registry: principal.registry.clone(),
            uid: principal.uid,
            name: principal.name.clone(),
            kind: principal.kind,
            client_id,
            assigned_client_id,
            rights,
            policy: principal.policy.clone(),
            ends_ms: None,
            ends: None,
            kid: None,
            epoch: principal.epoch,
            token: None,
            gateway_generation: None,
            sessions_max: None,
            leading_slash: false,
            proven: false,
            settles_key: false,
            ca: None,
            ca_stamp: None,
            generation: loaded.generation,
        })
    }

    /// A second of the wall clock, in ms and as a deadline of the clock that only runs forward.
    fn deadline(&self, ends_s: u64) -> (u64, Instant) {
        let ends_ms = ends_s.saturating_mul(1000);
        let ahead_ms = ends_ms.saturating_sub(self.inner.clock.now_ms());
        // No token lives longer than a day and its skew; the bound keeps the addition from overflowing.
        let ahead = Duration::from_millis(ahead_ms.min(366 * 86_400_000));
        (ends_ms, self.inner.clock.instant() + ahead)
    }
}

/// Whether the connection was opened by a proof of its own, where that is wanted: what is good on any connection is
/// good for whoever has taken it, too.
fn judge_bound(realm: &Realm, loaded: &Loaded, proven: bool) -> Result<(), Refusal> {
    let of_principal = loaded.principal.settings.bound_connections;
    if proven || !of_principal.unwrap_or(realm.record.settings.bound_connections) {
        return Ok(());
    }
    Err(Refusal::Binding(
        "connections of this principal are opened by a proof for that very connection (`bound_connections`): a JWT \
         with `cb`, a client certificate, the method `ace`, or a bound token with its proof"
            .to_owned(),
    ))
}

/// What a password is. It is judged as that and as nothing else: no failed form falls back to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    /// Two dots, and before the first a JSON object in base64url.
    Jwt,
    /// `dbo_...`.
    OpaqueToken,
    /// One of our prefixes, but nothing that opens a connection.
    Unknown,
    /// The rest.
    Password,
}

impl Credential {
    pub(crate) fn of(password: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(password) else { return Self::Password };
        if text.starts_with(OPAQUE_TOKEN_PREFIX) {
            return Self::OpaqueToken;
        }
        if text.starts_with(ADMIN_TOKEN_PREFIX) {
            return Self::Unknown;
        }
        let mut segments = text.split('.');
        let header = segments.next().unwrap_or_default().trim_end_matches('=');
        if segments.count() == 2
            && let Ok(json) = base64url_decode(header)
            && let Ok(serde_json::Value::Object(_)) = serde_json::from_slice(&json)
        {
            return Self::Jwt;
        }
        Self::Password
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_judged_as_one_form_and_no_other() {
        for (password, form) in [
            ("eyJhbGciOiJFUzI1NiJ9.e30.AAAA", Credential::Jwt),
            ("eyJhbGciOiJFUzI1NiJ9.e30.AAAA=", Credential::Jwt),
            ("e30.x.y", Credential::Jwt),
            ("e30=.x.y", Credential::Jwt),
            ("eyJhbGciOiJFUzI1NiJ9.e30", Credential::Password),
            ("a.b.c", Credential::Password),
            ("W10.x.y", Credential::Password),
            ("e30.x.y.z", Credential::Password),
            ("", Credential::Password),
            ("hunter2", Credential::Password),
            ("dbo_abc", Credential::OpaqueToken),
            ("dba_abc", Credential::Unknown),
        ] {
            assert_eq!(Credential::of(password.as_bytes()), form, "{password}");
        }
        assert_eq!(Credential::of(b"\xff.e30.x"), Credential::Password);
    }
}
