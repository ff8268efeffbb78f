//! Reads an embeddings answer: one vector a text, in order, all of one length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use protocol::openai::{EmbeddingResponse, EmbeddingVector};
use serde::Serialize;

/// Vectors and their cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Embeddings {
    /// One a text, in order, all of the same length.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens that were counted.
    pub prompt_tokens: usize,
}

/// Checks and unpacks; the error says what was expected and found.
pub(crate) fn embeddings(response: EmbeddingResponse, texts: usize) -> Result<Embeddings, String> {
    if response.data.len() != texts {
        return Err(format!("expected {texts} vectors, found {}", response.data.len()));
    }
    let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(texts);
    for (index, object) in response.data.into_iter().enumerate() {
        if object.index != index {
            return Err(format!("expected vector {index}, found {}", object.index));
        }
        let vector = match object.embedding {
            EmbeddingVector::Float(vector) => vector,
            EmbeddingVector::Base64(text) => floats(&text)?,
        };
        let length = vectors.first().unwrap_or(&vector).len();
        if vector.is_empty() || vector.len() != length {
            return Err(format!("vector {index}: expected {length} numbers, found {}", vector.len()));
        }
        vectors.push(vector);
    }
    Ok(Embeddings { vectors, prompt_tokens: response.usage.prompt_tokens })
}

fn floats(text: &str) -> Result<Vec<f32>, String> {
    let bytes = BASE64.decode(text).map_err(|error| format!("a vector is not base64: {error}"))?;
    let (whole, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("a vector of {} bytes, expected a multiple of 4", bytes.len()));
    }
    Ok(whole.iter().map(|four| f32::from_le_bytes(*four)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::openai::{EmbeddingObject, Usage};

    fn response(vectors: &[(usize, EmbeddingVector)]) -> EmbeddingResponse {
        let object = |(index, vector): &(usize, EmbeddingVector)| EmbeddingObject {
            object: "embedding".into(),
            index: *index,
            embedding: vector.clone(),
        };
        EmbeddingResponse {
            object: "list".into(),
            data: vectors.iter().map(object).collect(),
            model: "m".into(),
            usage: Usage::of_input(3),
        }
    }

    #[test]
    fn both_encodings_give_the_same_vector() {
        let text = BASE64.encode([1.5_f32.to_le_bytes(), (-0.25_f32).to_le_bytes()].concat());
        let base64 = embeddings(response(&[(0, EmbeddingVector::Base64(text))]), 1).unwrap();
        let float = embeddings(response(&[(0, EmbeddingVector::Float(vec![1.5, -0.25]))]), 1).unwrap();
        assert_eq!(base64, float);
        assert_eq!(base64, Embeddings { vectors: vec![vec![1.5, -0.25]], prompt_tokens: 3 });
    }

    #[test]
    fn answers_that_do_not_fit_the_request_are_refused() {
        let float = |n: usize| EmbeddingVector::Float(vec![1.0; n]);
        let missing = response(&[(0, float(2))]);
        assert_eq!(embeddings(missing, 2).unwrap_err(), "expected 2 vectors, found 1");
        let swapped = response(&[(1, float(2)), (0, float(2))]);
        assert_eq!(embeddings(swapped, 2).unwrap_err(), "expected vector 0, found 1");
        let uneven = response(&[(0, float(2)), (1, float(3))]);
        assert_eq!(embeddings(uneven, 2).unwrap_err(), "vector 1: expected 2 numbers, found 3");
        let empty = response(&[(0, float(0))]);
        assert!(embeddings(empty, 1).is_err());
        for bad in ["?", "AAAAAAA="] {
            assert!(embeddings(response(&[(0, EmbeddingVector::Base64(bad.into()))]), 1).is_err(), "{bad}");
        }
    }
}
