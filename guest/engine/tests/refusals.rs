//! Model folders that must be refused, each with the file, what was expected, what was found and what to do.

mod common;

use common::{Folder, LAYERS, WIDTH, refusal};
use safetensors::Dtype;
use serde_json::json;
use std::path::Path;

/// Writes a folder after `spoil`, and gives the refusal without the folder's own path.
fn refused(spoil: impl FnOnce(&mut Folder)) -> String {
    let mut folder = Folder::random(1);
    spoil(&mut folder);
    let dir = folder.write();
    refusal(dir.path()).replace(&format!("{}/", dir.path().display()), "")
}

/// The same for bytes of one file.
fn refused_file(name: &str, bytes: &[u8]) -> String {
    let dir = Folder::random(1).write();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    refusal(dir.path()).replace(&format!("{}/", dir.path().display()), "")
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn another_architecture_is_refused_by_name() {
    let message = refused(|f| f.config["architectures"] = json!(["XLMRobertaModel"]));
    says(
        &message,
        &["config.json", "architecture `XLMRobertaModel`", "supported: BertModel", "choose a model"],
    );
    let message = refused(|f| f.config["architectures"] = json!([]));
    says(&message, &["config.json", "`architectures`", "exactly one name"]);
}

#[test]
fn a_missing_file_is_named_with_its_purpose() {
    for (name, purpose) in [
        ("config.json", "architecture"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokens"),
        ("modules.json", "pooled"),
        ("1_Pooling/config.json", "pooled"),
    ] {
        let dir = Folder::random(1).write();
        std::fs::remove_file(dir.path().join(name)).unwrap();
        says(&refusal(dir.path()), &[name, purpose, "No such file"]);
    }
    says(&refusal(Path::new("/nowhere/at/all")), &["/nowhere/at/all/config.json", "No such file"]);
}

#[test]
fn malformed_json_is_refused_with_its_line() {
    for name in ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"] {
        says(&refused_file(name, b"\n  ]"), &[name, "line 2"]);
    }
    says(&refused_file("config.json", b"\xff\xfe{}"), &["config.json"]);
    let deep = [b"{\"architectures\":".to_vec(), vec![b'['; 100_000]].concat();
    says(&refused_file("config.json", &deep), &["config.json"]);
    says(&refused_file("config.json", &vec![b' '; 2 << 20]), &["2097152 bytes", "at most 1048576"]);
}

#[test]
fn absurd_shapes_are_refused_before_anything_is_allocated() {
    for (field, value) in [
        ("hidden_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("vocab_size", json!(0)),
        ("intermediate_size", json!(1 << 20)),
        ("max_position_embeddings", json!(1u64 << 33)),
        ("type_vocab_size", json!(0)),
        ("num_attention_heads", json!(3)),
        ("num_attention_heads", json!(0)),
        ("layer_norm_eps", json!(0.0)),
        ("layer_norm_eps", json!(-1.0)),
    ] {
        let message = refused(|f| f.config[field] = value.clone());
        says(&message, &["config.json", &format!("`{field}`"), "expected"]);
    }
    says(&refused(|f| f.config["hidden_size"] = json!(-8)), &["config.json", "-8"]);
    says(
        &refused(|f| drop(f.config.as_object_mut().unwrap().remove("hidden_size"))),
        &["missing field `hidden_size`"],
    );
}

#[test]
fn other_variants_of_bert_are_refused_by_name() {
    says(
        &refused(|f| f.config["hidden_act"] = json!("gelu_new")),
        &["hidden_act `gelu_new`", "supported: gelu"],
    );
    let message = refused(|f| f.config["position_embedding_type"] = json!("relative_key"));
    says(&message, &["position_embedding_type `relative_key`", "supported: absolute"]);
    says(&refused(|f| f.config["is_decoder"] = json!(true)), &["is_decoder `true`"]);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let name = "encoder.layer.1.attention.self.key.weight";
    let message = refused(|f| drop(f.tensors.remove(name)));
    says(&message, &["model.safetensors", name, "expected F32 [8, 8]", "found no such tensor"]);
    let message = refused(|f| drop(f.tensors.remove("embeddings.word_embeddings.weight")));
    says(&message, &["embeddings.word_embeddings.weight", "expected F32 [14, 8]"]);
}

#[test]
fn a_wrong_shape_or_type_is_named_with_both() {
    let name = "encoder.layer.0.intermediate.dense.weight";
    let message = refused(|f| f.tensors.get_mut(name).unwrap().1.reverse());
    says(&message, &[name, "expected F32 [16, 8]", "found F32 [8, 16]"]);
    let message = refused(|f| f.tensors.get_mut(name).unwrap().0 = Dtype::I32);
    says(&message, &[name, "found I32 [16, 8]"]);
    let message = refused(|f| f.config["vocab_size"] = json!(15));
    says(&message, &["embeddings.word_embeddings.weight", "expected F32 [15, 8]", "found F32 [14, 8]"]);
}

#[test]
fn a_tensor_that_the_architecture_does_not_have_is_refused() {
    for name in ["lm_head.weight", "encoder.layer.2.output.dense.bias", "embeddings.position_embeddings.bias"]
    {
        let extra = (Dtype::F32, vec![1], vec![0; 4]);
        let message = refused(|f| drop(f.tensors.insert(name.into(), extra)));
        says(&message, &["model.safetensors", name, "expected no such tensor"]);
    }
    let mut folder = Folder::random(1);
    for name in ["pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"] {
        folder.tensors.insert(name.into(), (Dtype::I64, vec![1], vec![0; 8]));
    }
    engine::inspect(folder.write().path()).expect("the pooler of a checkpoint is known");
}

#[test]
fn weights_that_are_not_numbers_are_refused_with_their_place() {
    for (name, element, value) in [
        ("encoder.layer.1.output.dense.weight", 77, f32::NAN),
        ("encoder.layer.0.attention.self.value.bias", 7, f32::INFINITY),
        ("embeddings.LayerNorm.weight", 0, f32::NEG_INFINITY),
        ("embeddings.position_embeddings.weight", 190, f32::NAN),
    ] {
        let message = refused(|f| {
            let mut values = f.get(name);
            values[element] = value;
            f.set(name, &values);
        });
        let place = format!("element {element} is {value}");
        says(&message, &["model.safetensors", name, &place, "finite number"]);
    }
}

#[test]
fn a_word_that_is_not_a_number_is_found_by_inspect_and_on_use() {
    let mut folder = Folder::random(1);
    let mut words = folder.get("embeddings.word_embeddings.weight");
    words[5 * WIDTH + 3] = f32::NAN;
    folder.set("embeddings.word_embeddings.weight", &words);
    let dir = folder.write();
    let wanted = ["embeddings.word_embeddings.weight", "element 43 is NaN"];
    says(&engine::inspect(dir.path()).unwrap_err().to_string(), &wanted);
    let embedder = engine::Embedder::load(dir.path()).unwrap();
    embedder.embed(&["a".into(), "c d".into()]).expect("texts without the damaged word");
    let error = embedder.embed(&["a b".into()]).unwrap_err();
    says(&error.to_string(), &wanted);
    assert!(!error.is_request_fault());
}

#[test]
fn weights_that_overflow_give_an_error_and_not_a_vector() {
    let mut folder = Folder::random(1);
    folder.set(&format!("encoder.layer.{}.output.LayerNorm.weight", LAYERS - 1), &[f32::MAX; WIDTH]);
    folder.set(&format!("encoder.layer.{}.output.LayerNorm.bias", LAYERS - 1), &[f32::MAX; WIDTH]);
    let dir = folder.write();
    let error = engine::Embedder::load(dir.path()).unwrap().embed(&["a b".into()]).unwrap_err();
    says(&error.to_string(), &["input[0]", "not finite"]);
    assert!(!error.is_request_fault());
    engine::inspect(dir.path()).expect_err("inspect must find it too");
}

/// A safetensors file with this header and this many bytes of data.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn lying_offsets_are_refused() {
    let tensor = |offsets: &str| format!(r#"{{"t":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
    for (bytes, reason) in [
        (raw(&tensor("[0,8]"), 4), "cover 8 bytes, the file holds 4"),
        (raw(&tensor("[0,8]"), 12), "cover 8 bytes, the file holds 12"),
        (raw(&tensor("[8,16]"), 16), "offset"),
        (raw(&tensor("[0,4]"), 4), "safetensors header"),
        (raw(&tensor("[8,0]"), 8), "offset"),
        (raw(&tensor("[0,18446744073709551615]"), 8), "safetensors header"),
        (
            raw(r#"{"t":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}"#, 0),
            "overflow",
        ),
        (raw(r#"{"t":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#, 8), "F99"),
        (raw("{\"t\":", 0), "EOF"),
        (vec![], "the file has 0"),
        (vec![1; 7], "the file has 7"),
        (u64::MAX.to_le_bytes().to_vec(), "claims 18446744073709551615 bytes, at most 0"),
    ] {
        says(
            &refused_file("model.safetensors", &bytes),
            &["model.safetensors", "safetensors header", reason],
        );
    }
}

#[test]
fn a_cut_weights_file_is_refused() {
    let whole = Folder::random(1).weights();
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        says(&refused_file("model.safetensors", &whole[..len]), &["model.safetensors", "safetensors header"]);
    }
}

#[test]
fn other_module_chains_are_refused_by_name() {
    let message = refused(|f| f.modules[2]["type"] = json!("sentence_transformers.models.Dense"));
    says(&message, &["modules.json", "Transformer, Pooling, Dense", "supported: Transformer, Pooling and"]);
    let message = refused(|f| f.modules[1]["path"] = json!("../outside"));
    says(&message, &["modules.json", "[1].path", "../outside"]);
    says(&refused(|f| f.modules[0]["path"] = json!("0_Transformer")), &["modules.json", "[0].path"]);
    says(&refused(|f| f.modules = json!([])), &["modules.json", "module chain"]);
}

#[test]
fn other_poolings_are_refused_by_name() {
    let message = refused(|f| f.pooling["pooling_mode_max_tokens"] = json!(true));
    says(&message, &["1_Pooling/config.json", "pooling `max_tokens+mean_tokens`", "mean, cls"]);
    let message = refused(|f| f.pooling = json!({"embedding_dimension": WIDTH, "pooling_mode": "lasttoken"}));
    says(&message, &["pooling `lasttoken`", "mean, cls"]);
    let message = refused(|f| f.pooling["word_embedding_dimension"] = json!(9));
    says(&message, &["word_embedding_dimension", "is 9", "8, the model's hidden_size"]);
    says(
        &refused(|f| f.pooling["pooling_mode_cls_token"] = json!(1)),
        &["pooling_mode_cls_token", "true or false"],
    );
}

#[test]
fn other_tokenizers_are_refused_by_name() {
    for (part, value, name) in [
        ("normalizer", json!({"type": "Lowercase"}), "Lowercase"),
        ("pre_tokenizer", json!({"type": "Whitespace"}), "Whitespace"),
        ("post_processor", serde_json::Value::Null, "none"),
        ("model", json!({"type": "BPE", "vocab": {}, "merges": []}), "BPE"),
    ] {
        let message = refused(|f| f.tokenizer[part] = value);
        says(&message, &["tokenizer.json", &format!("tokenizer {part} `{name}`"), "supported: "]);
    }
    says(&refused_file("tokenizer.json", b"{}"), &["tokenizer.json", "tokenizer model `none`"]);
    says(&refused_file("tokenizer.json", b"{\n\n]"), &["tokenizer.json", "line 3"]);
}

#[test]
fn a_tokenizer_that_contradicts_itself_is_refused() {
    let message = refused(|f| f.tokenizer["post_processor"]["single"][1]["Sequence"]["type_id"] = json!(1));
    says(&message, &["tokenizer.json", "template", "segment 0"]);
    let message = refused(|f| f.tokenizer["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([]));
    says(&message, &["tokenizer.json", "exactly one id"]);
    let message = refused(|f| drop(f.tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("[UNK]")));
    says(&message, &["tokenizer.json", "`unk_token` is not in the vocabulary"]);
    let message = refused(|f| f.tokenizer["added_tokens"][2]["id"] = json!(9));
    says(&message, &["tokenizer.json", "`[CLS]` has id 9, expected Some(2)"]);
    let message = refused(|f| f.tokenizer["added_tokens"][2]["lstrip"] = json!(true));
    says(&message, &["tokenizer.json", "`[CLS]` (id 2)", "strips"]);
    let message = refused(|f| f.tokenizer["model"]["max_input_chars_per_word"] = json!(1_000_000));
    says(&message, &["tokenizer.json", "`max_input_chars_per_word` is 1000000, expected at most 1000"]);
}

#[test]
fn a_length_that_leaves_no_room_for_text_is_refused() {
    let message = refused(|f| f.limits["max_seq_length"] = json!(2));
    says(&message, &["tokenizer.json", "frames a text with 2 tokens, the model takes 2 in all"]);
    says(
        &refused(|f| f.limits["max_seq_length"] = json!(0)),
        &["sentence_bert_config.json", "max_seq_length"],
    );
}

#[test]
fn a_tokenizer_of_a_larger_model_is_found_by_inspect_and_on_use() {
    let mut folder = Folder::random(1);
    folder.tokenizer["model"]["vocab"]["zebra"] = json!(5000);
    let dir = folder.write();
    let wanted = ["tokenizer.json", "gives token id 5000, the model has 14 rows"];
    says(&engine::inspect(dir.path()).unwrap_err().to_string(), &wanted);
    let embedder = engine::Embedder::load(dir.path()).unwrap();
    embedder.embed(&["a red b".into()]).expect("a text without the unknown word");
    let error = embedder.embed(&["a zebra".into()]).unwrap_err();
    says(&error.to_string(), &wanted);
    assert!(!error.is_request_fault());
}
