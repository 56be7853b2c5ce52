//! Subjects with several organizations.
//!
//! A client's groups are the O attributes of its certificate, any number of them; rcgen writes at most one. So the
//! certificate it made gets its subject replaced and is signed anew. This is all the DER that takes.

use rcgen::{KeyPair, SigningKey};
use x509_parser::certificate::X509Certificate;

use crate::der::{BIT_STRING, OBJECT_IDENTIFIER, SEQUENCE, SET, UTF8_STRING, header_len, tlv};
use crate::{Error, Result};

/// Object identifiers 2.5.4.10 and 2.5.4.3, encoded with tag and length.
const OID_ORGANIZATION: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x0a];
const OID_COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];

/// The DER of `certificate` with the subject `organizations` (in order) and `common_name`, signed by `signer`, which must
/// be the key that signed `certificate`.
pub(crate) fn replace(
    certificate: &X509Certificate<'_>,
    organizations: &[String],
    common_name: &str,
    signer: &KeyPair,
) -> Result<Vec<u8>> {
    let tbs = certificate.tbs_certificate.as_ref();
    let old = certificate.subject().as_raw();
    let bad = |what: &str| Error::invalid("new certificate", what);
    // The parser's slices point into the same buffer; the distance between them is the subject's offset.
    let at = (old.as_ptr() as usize)
        .checked_sub(tbs.as_ptr() as usize)
        .filter(|at| tbs.get(*at..*at + old.len()) == Some(old))
        .ok_or_else(|| bad("its subject cannot be found"))?;
    let content = header_len(tbs).filter(|start| *start <= at).ok_or_else(|| bad("not a DER sequence"))?;

    let mut body = tbs[content..at].to_vec();
    body.extend(name(organizations, common_name));
    body.extend(&tbs[at + old.len()..]);
    let tbs = tlv(SEQUENCE, &body);

    let signature = signer.sign(&tbs).map_err(|source| Error::Issue { common_name: common_name.to_owned(), source })?;
    let mut whole = tbs;
    whole.extend(algorithm(certificate)?);
    // The leading zero counts the unused bits of the last octet.
    whole.extend(tlv(BIT_STRING, &[&[0], signature.as_slice()].concat()));
    Ok(tlv(SEQUENCE, &whole))
}

/// The signature algorithm as the certificate spells it: the sequence inside the TBS before the issuer.
fn algorithm(certificate: &X509Certificate<'_>) -> Result<Vec<u8>> {
    let algorithm = &certificate.signature_algorithm;
    let mut content = tlv(OBJECT_IDENTIFIER, algorithm.algorithm.as_bytes());
    if let Some(parameters) = &algorithm.parameters {
        let class = parameters.header.tag().0;
        content.extend(tlv(
            u8::try_from(class).map_err(|_| Error::invalid("new certificate", "odd algorithm"))?,
            parameters.data,
        ));
    }
    Ok(tlv(SEQUENCE, &content))
}

fn name(organizations: &[String], common_name: &str) -> Vec<u8> {
    let attribute = |oid: &[u8], value: &str| {
        tlv(SET, &tlv(SEQUENCE, &[oid, tlv(UTF8_STRING, value.as_bytes()).as_slice()].concat()))
    };
    let mut attributes: Vec<u8> =
        organizations.iter().flat_map(|organization| attribute(OID_ORGANIZATION, organization)).collect();
    attributes.extend(attribute(OID_COMMON_NAME, common_name));
    tlv(SEQUENCE, &attributes)
}
