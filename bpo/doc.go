// Package bpo is the method of "BPO: Staying Close to the Behavior LLM Creates Better Online LLM Alignment"
// (arXiv 2406.12168), read top to bottom:
//
//   - loss.go, loss_*.go: direct alignment losses, pure functions of four log-prob vectors;
//   - behavior.go: who samples, and when it is refreshed (F data-collection phases, K = ⌈T/F⌉ steps each);
//   - reference.go: whom the loss stays close to;
//   - phase.go: collect → annotate → pairs;
//   - learner.go, optimizer.go: adapters, gradients, one step;
//   - run.go: the loop over phases and steps;
//   - checkpoint.go: everything a killed run needs to go on, bit for bit.
//
// Three independent words of [Config] — Behavior, Reference and Data — make offline DAP, online DPO,
// TR-DPO and BPO points of one grid.
package bpo
