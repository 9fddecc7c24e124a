package conformance

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

var listImages = flag.Bool("list-images", false, "print the names of the images that the suite's pods ask for, and do nothing else")

// Where the suite's pods are described, in the files that it embeds.
const manifests = "mesh/manifests.yaml"

var image = regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*["']?([^\s"']+)`)

func TestMain(m *testing.M) {
	flag.Parse()
	if !*listImages {
		os.Exit(m.Run())
	}
	names, err := images()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, name := range names {
		fmt.Println(name)
	}
}

// The images of the mesh's manifests, each once.
func images() ([]string, error) {
	text, err := fs.ReadFile(conformance.Manifests, manifests)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, found := range image.FindAllSubmatch(text, -1) {
		names = append(names, string(found[1]))
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func TestOneImageIsNamed(t *testing.T) {
	names, err := images()
	if err != nil || len(names) != 1 {
		t.Fatalf("one image was expected in %s: %v, %v", manifests, names, err)
	}
}
