//! Stable hashes for names: `pod-template-hash` and collision-free suffixes.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// Letters and digits that form no words, as upstream's `rand.SafeEncodeString` has them.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// 32-bit FNV-1a.
pub(crate) fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Writes a number's decimal digits in an alphabet that is safe in names.
pub(crate) fn safe_encode(number: u32) -> String {
    number.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// Hash of a pod template; `collisions` sets apart templates whose hashes collide.
pub(crate) fn pod_template_hash(
    template: &PodTemplateSpec,
    collisions: Option<i32>,
) -> Result<String, serde_json::Error> {
    let mut bytes = serde_json::to_vec(template)?;
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    Ok(safe_encode(fnv1a_32(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_matches_the_published_vectors() {
        assert_eq!(fnv1a_32(b""), 0x811c_9dc5);
        assert_eq!(fnv1a_32(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a_32(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn hashes_are_stable_and_collision_counts_change_them() {
        let template = PodTemplateSpec::default();
        let first = pod_template_hash(&template, None).unwrap();
        assert_eq!(first, pod_template_hash(&template, None).unwrap());
        assert_ne!(first, pod_template_hash(&template, Some(1)).unwrap());
        assert!(first.bytes().all(|b| ALPHABET.contains(&b)));
    }
}
