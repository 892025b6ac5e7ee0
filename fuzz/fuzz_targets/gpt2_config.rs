#![no_main]
shears_fuzz::run!("gpt2_config");
