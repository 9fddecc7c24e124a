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

var listImages = flag.String("list-images", "", "print the names of the images that the suite's pods ask for, those of `mesh` or of gateway, and do nothing else")

// Where the suite's pods are described, in the files that it embeds.
var manifests = map[string]string{"mesh": "mesh/manifests.yaml", "gateway": "base/manifests.yaml"}

var image = regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*["']?([^\s"']+)`)

func TestMain(m *testing.M) {
	flag.Parse()
	if *listImages == "" {
		os.Exit(m.Run())
	}
	names, err := images(*listImages)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, name := range names {
		fmt.Println(name)
	}
}

// The images of the pods of the mesh, or of the Gateways' backends, each once.
func images(of string) ([]string, error) {
	path, known := manifests[of]
	if !known {
		return nil, fmt.Errorf("-list-images: there are images of mesh and of gateway, not of %q", of)
	}
	files := []string{path}
	if of == "gateway" {
		// Some of these tests have backends of their own; those of the mesh use the ones that are there.
		declared, err := declaredAtEdge()
		if err != nil {
			return nil, err
		}
		for _, test := range atEdge(declared) {
			files = append(files, test.Manifests...)
		}
	}
	var names []string
	for _, file := range files {
		text, err := fs.ReadFile(conformance.Manifests, file)
		if err != nil {
			return nil, err
		}
		for _, found := range image.FindAllSubmatch(text, -1) {
			names = append(names, string(found[1]))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func TestTheImagesOfPodsAreFound(t *testing.T) {
	mesh, err := images("mesh")
	if err != nil || len(mesh) != 1 {
		t.Fatalf("the pods of the mesh ask for one image: %v, %v", mesh, err)
	}
	gateway, err := images("gateway")
	if err != nil || len(gateway) == 0 {
		t.Fatalf("the backends of Gateways ask for images: %v, %v", gateway, err)
	}
}
