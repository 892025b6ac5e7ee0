#![no_main]
shears_fuzz::run!("llama_config");
