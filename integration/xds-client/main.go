// Command xds-client is grpc-go as a user of the mesh has it: a server that says who it is, and a client that finds servers by xDS.
//
//	xds-client serve ADDRESS NAME   answers health checks, with NAME in the header served-by
//	xds-client call TARGET          reads how many calls to make, line by line, and prints for each line what became of them, as JSON
//
// The client is configured as any with xDS is, by GRPC_XDS_BOOTSTRAP alone. It keeps its one channel over all lines.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

// servedBy is the header with the name of the server that answered.
const servedBy = "served-by"

// patience is how long one call may take.
const patience = 10 * time.Second

func main() {
	log.SetFlags(0)
	arguments := os.Args[1:]
	var err error
	switch {
	case len(arguments) == 3 && arguments[0] == "serve":
		err = serve(arguments[1], arguments[2])
	case len(arguments) == 2 && arguments[0] == "call":
		err = call(arguments[1])
	default:
		err = fmt.Errorf("usage: xds-client serve ADDRESS NAME | xds-client call TARGET")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(address, name string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	tell := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if err := grpc.SetHeader(ctx, metadata.Pairs(servedBy, name)); err != nil {
			return nil, err
		}
		return handle(ctx, request)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(tell))
	healthpb.RegisterHealthServer(server, health.NewServer())
	fmt.Println(listener.Addr())
	return server.Serve(listener)
}

// call makes as many calls as each line says, one after the other. Words of the form NAME=VALUE after the number are headers.
func call(target string) error {
	// The node proxy encrypts; an application in the mesh speaks in clear.
	channel, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer channel.Close()
	client := healthpb.NewHealthClient(channel)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		count, err := strconv.Atoi(words[0])
		if err != nil {
			return err
		}
		ctx := context.Background()
		for _, word := range words[1:] {
			name, value, _ := strings.Cut(word, "=")
			ctx = metadata.AppendToOutgoingContext(ctx, name, value)
		}
		answers := map[string]int{}
		for range count {
			answers[once(ctx, client)]++
		}
		text, err := json.Marshal(answers)
		if err != nil {
			return err
		}
		fmt.Println(string(text))
	}
	return lines.Err()
}

// once makes a call: the name of the server that answered, or why none did.
func once(ctx context.Context, client healthpb.HealthClient) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var header metadata.MD
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
		// The rest of the message differs from call to call.
		log.Print(err)
		return status.Code(err).String()
	}
	return strings.Join(header.Get(servedBy), ",")
}
