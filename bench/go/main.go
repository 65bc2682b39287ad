// Calls over grpc-go's round_robin, for slices of time that the standard input asks for.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// codec has messages that are bytes, as the benchmark's other clients have.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*message.(*[]byte))}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, message any) error {
	*message.(*[]byte) = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = codec{}

type load struct {
	connection *grpc.ClientConn
	request    []byte
	messages   uint
	deadline   bool
	callers    int
}

func main() {
	log.SetFlags(0)
	servers := flag.String("servers", "", "addresses, separated by commas")
	ca := flag.String("ca", "", "file of the certificate authority: TLS")
	size := flag.Uint("size", 16, "bytes of a message")
	messages := flag.Uint("messages", 1, "messages of a response")
	callers := flag.Int("callers", 16, "calls in flight")
	threads := flag.Int("threads", 1, "threads that run Go code")
	deadline := flag.Bool("deadline", false, "whether calls have a deadline")
	flag.Parse()
	runtime.GOMAXPROCS(*threads)

	connection, err := connect(strings.Split(*servers, ","), *ca)
	if err != nil {
		log.Fatal(err)
	}
	request := binary.BigEndian.AppendUint32(nil, uint32(*size))
	request = binary.BigEndian.AppendUint32(request, uint32(*messages))
	if missing := int(*size) - len(request); missing > 0 {
		request = append(request, make([]byte, missing)...)
	}
	load := load{connection, request, *messages, *deadline, *callers}
	fmt.Println("ready")
	// Each line is a number of milliseconds; the answer is the number of calls.
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		var milliseconds int
		if _, err := fmt.Sscan(input.Text(), &milliseconds); err != nil {
			log.Fatal(err)
		}
		calls, err := load.run(time.Duration(milliseconds) * time.Millisecond)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(calls)
	}
}

// connect returns when calls can be made.
func connect(servers []string, ca string) (*grpc.ClientConn, error) {
	addresses := manual.NewBuilderWithScheme("bench")
	var state resolver.State
	for _, server := range servers {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: server})
	}
	addresses.InitialState(state)
	security := insecure.NewCredentials()
	if ca != "" {
		var err error
		if security, err = credentials.NewClientTLSFromFile(ca, "localhost"); err != nil {
			return nil, err
		}
	}
	connection, err := grpc.NewClient("bench:///bench",
		grpc.WithResolvers(addresses),
		grpc.WithTransportCredentials(security),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
	)
	if err != nil {
		return nil, err
	}
	connection.Connect()
	for state := connection.GetState(); state != connectivity.Ready; state = connection.GetState() {
		connection.WaitForStateChange(context.Background(), state)
	}
	return connection, nil
}

func (l *load) run(length time.Duration) (int, error) {
	started := time.Now()
	calls := make([]int, l.callers)
	failures := make([]error, l.callers)
	var callers sync.WaitGroup
	for caller := range l.callers {
		callers.Go(func() {
			for time.Since(started) < length && failures[caller] == nil {
				failures[caller] = l.call()
				calls[caller]++
			}
		})
	}
	callers.Wait()
	total := 0
	for _, made := range calls {
		total += made
	}
	return total, errors.Join(failures...)
}

func (l *load) call() error {
	ctx := context.Background()
	if l.deadline {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	var response []byte
	if l.messages == 1 {
		return l.connection.Invoke(ctx, "/hither.Bench/Call", &l.request, &response)
	}
	stream, err := l.connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/hither.Bench/Call")
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&l.request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for received := uint(0); ; received++ {
		err := stream.RecvMsg(&response)
		if err == io.EOF && received == l.messages {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d messages: %w", received, err)
		}
	}
}
