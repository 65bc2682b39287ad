// The peer, built with the versions that go.mod names.
package main

import "hither/interop/peer"

func main() { peer.Main() }
