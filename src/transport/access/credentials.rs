//! What an apiserver is shown to know this client, for single questions.

use http::{HeaderValue, Method, request};
use rustls::ClientConfig;

use super::prepare::{self, Prepared, prepare};
use super::{Access, plugin};
use crate::transport::readyz;

/// Read once; secrets are not shown by `Debug`.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The CA, and certificate and key of the client if it has them.
    pub tls: ClientConfig,
    /// The Authorization header, if there is one. It is marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// The client certificate, in DER.
    pub certificate: Option<Vec<u8>>,
}

impl Credentials {
    /// The bearer token.
    pub fn token(&self) -> Option<&str> {
        self.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

impl Access {
    /// The cluster's CA, in DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// Reads the credentials. A plugin is run if there is one, which can take seconds.
    ///
    /// # Errors
    /// One line that says what cannot be read.
    pub async fn credentials(&self) -> Result<Credentials, String> {
        self.shown(prepare(self).await?).await
    }

    /// The credentials as they are where a plugin wrote this. Nothing is run, unless that has ended already.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub async fn credentials_of(&self, written: &[u8]) -> Result<Credentials, String> {
        self.shown(prepare::with(self, Some(plugin::answer(written)?))?).await
    }

    async fn shown(&self, prepared: Prepared) -> Result<Credentials, String> {
        let authorization = match (&self.token, prepared.authorization) {
            (Some(token), _) => Some(token.header()),
            (None, Some(authorization)) => Some(authorization.header().await?),
            (None, None) => None,
        };
        Ok(Credentials { tls: prepared.tls, authorization, certificate: prepared.certificate })
    }

    /// A request to the API, without the Authorization header.
    pub fn request(&self, method: Method, target: &str) -> request::Builder {
        let mut request = request::Builder::new().method(method);
        let uri =
            http::Uri::builder().scheme("https").authority(self.authority.clone()).path_and_query(target);
        // What does not parse is an error of the builder's.
        request = match uri.build() {
            Ok(uri) => request.uri(uri),
            Err(_) => request.uri(target),
        };
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.user.headers.clone());
        }
        request
    }

    /// As whom apiservers are asked before the first session. A plugin is not run for it: that is left to the session, which
    /// waits for it without holding up anybody else.
    pub async fn identity(&self) -> Result<readyz::Identity, String> {
        let trust = self.trust()?.into();
        let credentials = match self.plugin() {
            Some(_) => None,
            None => {
                let Credentials { tls, authorization, .. } = self.credentials().await?;
                readyz::Credentials::new(Some(tls.client_auth_cert_resolver), authorization)
            }
        };
        Ok(readyz::Identity { trust, credentials })
    }
}
